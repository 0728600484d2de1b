"""The tokenizer artifact as the pipeline uses it: the `tokenizers` library alone, no transformers."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import tokenizers

from axolotl_core.artifacts.key import digest_file
from axolotl_core.errors import ModelError, foreign
from axolotl_core.prompts.example import Vocabulary
from axolotl_core.tokens.guard import ShadowTokenizer, any_of
from axolotl_core.tokens.pieces import Pieces
from axolotl_core.tokens.roundtrip import RoundTrip

ADDED = "user_tokens.json"
"""In the artifact: the tokens of params.yaml, which count as tokens in a user's field too."""


@dataclass(frozen=True)
class Tokenizer:
    """`bos`: ids that the tokenizer puts in front of a text by itself, often none."""

    folder: Path
    backend: tokenizers.Tokenizer
    bos: list[int]
    eos_id: int
    pad_id: int
    special: dict[str, str]
    """`eos_token` → its text, and so on."""
    added: frozenset[str] = frozenset()
    """Tokens that the user added."""

    @property
    def size(self) -> int:
        """Rows that the embeddings need: the largest id and one."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def control(self) -> dict[str, int]:
        """Special tokens that are plain text in a user's field, and their ids."""
        every = self.backend.get_added_tokens_decoder()
        return {t.content: id for id, t in every.items() if t.special and len(t.content) > 1 and t.content not in self.added}

    @cached_property
    def ends(self) -> frozenset[int]:
        """Ids that can end a turn: every added token."""
        return frozenset({self.eos_id, *self.backend.get_added_tokens_decoder()})

    def stop_ids(self, model_ends: int | Iterable[int] | None, turn_ends: Iterable[int] = ()) -> list[int]:
        """Ids that end a reply: the own end of sequence first, then those of turns, then the model's.

        model_ends: eos_token_id of generation_config.json, which is a list where a model has several (Llama 3, Gemma).
        """
        ends = [] if model_ends is None else [model_ends] if isinstance(model_ends, int) else list(model_ends)
        return list(dict.fromkeys([self.eos_id, *turn_ends, *(end for end in ends if 0 <= end < self.size)]))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What formats may ask."""
        added = any_of(token.content for token in self.backend.get_added_tokens_decoder().values())
        return Vocabulary(self.folder, lambda text: self.backend.token_to_id(text) is not None, self.size, added, self.special)

    @cached_property
    def twin(self) -> ShadowTokenizer:
        """Encodes texts with guarded special tokens."""
        return ShadowTokenizer(self.backend, self.control)

    @property
    def pieces(self) -> Pieces:
        """Cuts long texts where that changes no id."""
        return _pieces(self.backend)

    @property
    def round_trip(self) -> RoundTrip:
        """Tells whether ids give their text back."""
        return _round_trip(self.backend)

    def decode(self, ids: list[int]) -> str:
        """The text with its special tokens."""
        return str(self.backend.decode(ids, skip_special_tokens=False))

    def text(self, ids: list[int]) -> str:
        """The text without special tokens, as a reader wants it."""
        return str(self.backend.decode(ids, skip_special_tokens=True)).strip()


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of artifacts/tokenizer, read once a process: many datasets share it.

    Raises ModelError when it cannot be read, or has no end-of-sequence token.
    """
    files = [folder / name for name in ("tokenizer.json", "tokenizer_config.json", ADDED) if (folder / name).is_file()]
    digests = tuple((file.name, digest_file(file)) for file in files)
    if digests not in _read_before:
        _read_before.clear()
        _read_before[digests] = _read(folder)
    return replace(_read_before[digests], folder=folder)


_read_before: dict[tuple[tuple[str, str], ...], Tokenizer] = {}


def _read(folder: Path) -> Tokenizer:
    with foreign(lambda message: ModelError(f"{folder / 'tokenizer.json'}: cannot be read as a tokenizer: {message}")):
        backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_padding()
    backend.no_truncation()
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    eos = special_id(backend, config, "eos_token")
    if eos is None:
        raise ModelError("the tokenizer has no end-of-sequence token; set tokenizer.special_tokens.eos_token in params.yaml")
    pad = special_id(backend, config, "pad_token")
    special = {
        name: text for name in ("bos_token", "eos_token", "pad_token", "unk_token") if (text := special_text(config, name)) is not None
    }
    added = json.loads((folder / ADDED).read_text(encoding="utf-8")) if (folder / ADDED).is_file() else []
    bos = _bos(backend)
    backend.post_processor = None  # BOS is put in front here, and byte-level post-processors cut blanks off the offsets
    return Tokenizer(folder, backend, bos, eos, eos if pad is None else pad, special, frozenset(added))


@lru_cache(2)
def _pieces(backend: tokenizers.Tokenizer) -> Pieces:
    return Pieces(backend)


@lru_cache(2)
def _round_trip(backend: tokenizers.Tokenizer) -> RoundTrip:
    return RoundTrip(backend)


def special_text(config: dict[str, Any], name: str) -> str | None:
    """`eos_token` and the like in tokenizer_config.json, where they are text or {"content": text}."""
    token = config.get(name)
    return token.get("content") if isinstance(token, dict) else token


def special_id(backend: tokenizers.Tokenizer, config: dict[str, Any], name: str) -> int | None:
    """Id of `eos_token` and the like."""
    text = special_text(config, name)
    return None if text is None else backend.token_to_id(text)


def _bos(backend: tokenizers.Tokenizer) -> list[int]:
    plain, full = (backend.encode("a", add_special_tokens=added).ids for added in (False, True))
    starts = [i for i in range(len(full)) if full[i : i + len(plain)] == plain]
    return list(full[: starts[0]]) if starts else []
