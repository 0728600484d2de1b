"""The tokenizer artifact as the pipeline uses it: the `tokenizers` library alone, no transformers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from axolotl_core.errors import ModelError


@dataclass(frozen=True)
class Tokenizer:
    """`bos`: ids that the tokenizer puts in front of a text by itself, often none."""

    backend: tokenizers.Tokenizer
    bos: list[int]
    eos_id: int
    pad_id: int

    @property
    def size(self) -> int:
        """Rows that the embeddings need: the largest id and one."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def decode(self, ids: list[int]) -> str:
        """The text with its special tokens."""
        return str(self.backend.decode(ids, skip_special_tokens=False))

    def text(self, ids: list[int]) -> str:
        """The text without special tokens, as a reader wants it."""
        return str(self.backend.decode(ids, skip_special_tokens=True)).strip()


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of artifacts/tokenizer. Raises ModelError when it has no end-of-sequence token."""
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_padding()
    backend.no_truncation()
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    eos = special_id(backend, config, "eos_token")
    if eos is None:
        raise ModelError("the tokenizer has no end-of-sequence token; set tokenizer.special_tokens.eos_token in params.yaml")
    pad = special_id(backend, config, "pad_token")
    return Tokenizer(backend, _bos(backend), eos, eos if pad is None else pad)


def special_id(backend: tokenizers.Tokenizer, config: dict[str, Any], name: str) -> int | None:
    """Id of `eos_token` and the like in tokenizer_config.json, where they are text or {"content": text}."""
    token = config.get(name)
    text = token.get("content") if isinstance(token, dict) else token
    return None if text is None else backend.token_to_id(text)


def _bos(backend: tokenizers.Tokenizer) -> list[int]:
    plain, full = (backend.encode("a", add_special_tokens=added).ids for added in (False, True))
    starts = [i for i in range(len(full)) if full[i : i + len(plain)] == plain]
    return list(full[: starts[0]]) if starts else []
