"""tokenizer/: made from a hub repository, a folder or a GGUF file, with the tokens of params.yaml added."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import transformers
from gguf import GGUFReader, TokenType
from sentencepiece import SentencePieceProcessor
from tokenizers import models, normalizers, pre_tokenizers
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import generate_merges

from axolotl_core.errors import ModelError, foreign
from axolotl_core.sources.place import Place
from axolotl_core.tokens.roundtrip import BLANK
from axolotl_core.tokens.tokenizer import ADDED

LARGEST_LENGTH = 10**9
"""transformers says 1e30 where the maximum length is unknown."""
MACHINE_FACTS = ("is_local", "local_files_only", "name_or_path", "_commit_hash")
"""What save_pretrained notes about the machine; the same tokenizer has to give the same bytes."""
GGUF_PRE_TOKENIZERS = {
    "smollm": lambda: pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
}
"""tokenizer.ggml.pre → pre-tokenizer, where transformers' own conversion makes a plain byte-level one."""


def make_tokenizer(
    place: Place,
    out: Path,
    *,
    revision: str | None,
    token: bool | None,
    special_tokens: Mapping[str, str],
    tokens: Sequence[str],
    kind: str = "AutoTokenizer",
    legacy: bool | None = None,
) -> tuple[int, list[str]]:
    """Write the tokenizer to `out`. kind: its class in transformers.

    Returns the size of its vocabulary, and those of the user's tokens that it had not and that the model has to tell apart or to
    write: all but one for padding, and one that every text begins with.

    legacy: whether a sentencepiece tokenizer puts a blank in front of each piece of text, also behind a special token.

    Raises ModelError: nothing there that transformers can read, no network.
    """
    tokenizer = _load(place, revision, token, kind, {} if legacy is None else {"legacy": legacy})
    sentencepiece = _as_sentencepiece(tokenizer)
    had = tokenizer.get_vocab()
    if special_tokens:
        tokenizer.add_special_tokens({name: AddedToken(text, normalized=False) for name, text in special_tokens.items()})
    written = [text for name, text in special_tokens.items() if name not in ("pad_token", "bos_token")]
    new = {text for text in (*written, *tokens) if text not in had}
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in tokens])
    if tokens:
        (out / ADDED).write_text(json.dumps(sorted(tokens), ensure_ascii=False) + "\n", encoding="utf-8")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(out)
    if not (out / "tokenizer.json").is_file():
        raise ModelError(f"{place.text}: the tokenizer has no tokenizer.json and transformers cannot make one")
    path = out / "tokenizer_config.json"
    config = {k: v for k, v in json.loads(path.read_text(encoding="utf-8")).items() if k not in MACHINE_FACTS}
    if sentencepiece:
        config["tokenizer_class"] = "PreTrainedTokenizerFast"  # LlamaTokenizer would build its own pre-tokenizer again
    path.write_text(json.dumps(config, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return max(tokenizer.get_vocab().values()) + 1, sorted(new)


def _load(place: Place, revision: str | None, token: bool | None, kind: str, settings: dict[str, Any]) -> PreTrainedTokenizerBase:
    made_by = getattr(transformers, kind, None)
    if not hasattr(made_by, "from_pretrained"):
        raise ModelError(f"tokenizer.tokenizer_type: transformers has no tokenizer class '{kind}'; remove it")
    with foreign(lambda message: ModelError(f"{place.text}: transformers finds no tokenizer there: {message}")):
        if place.kind == "file":
            return _from_gguf(place.local)
        source = place.text if place.kind == "hub" else str(place.local)
        loaded: PreTrainedTokenizerBase = made_by.from_pretrained(
            source, revision=revision or "main", token=token, trust_remote_code=False, **settings
        )
        loaded.get_vocab()
        return loaded


def _as_sentencepiece(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Mend what transformers 5 makes of a Llama tokenizer, so that its ids are sentencepiece's. Returns whether it was one.

    It builds a Metaspace pre-tokenizer, whatever tokenizer.json has, which puts no blank in front of a text that begins
    with one; and of a tokenizer.model it takes the order of the pieces for the order of the merges, not their scores.
    """
    backend: tokenizers.Tokenizer = tokenizer.backend_tokenizer
    facts = json.loads(backend.to_str())
    pre = facts["pre_tokenizer"] or {}
    if facts["normalizer"] is not None or (pre.get("type"), pre.get("prepend_scheme"), pre.get("split")) != ("Metaspace", "always", False):
        return False
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(BLANK), normalizers.Replace(" ", BLANK)])
    backend.pre_tokenizer = None
    model_file = Path(str(tokenizer.init_kwargs.get("vocab_file")))
    if model_file.suffix == ".model" and not model_file.with_name("tokenizer.json").is_file():
        pieces = SentencePieceProcessor(model_file=str(model_file))
        scores = {pieces.id_to_piece(i): pieces.get_score(i) for i in range(pieces.get_piece_size())}
        vocabulary = {piece: i for i, piece in enumerate(scores)}
        control = {pieces.id_to_piece(i) for i in range(len(vocabulary)) if pieces.is_control(i) or pieces.is_unknown(i)}
        merges = generate_merges(vocabulary, scores, control)
        backend.model = models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    return True


def _from_gguf(path: Path) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
    facts = gguf_facts(path)
    backend: tokenizers.Tokenizer = tokenizer.backend_tokenizer
    if facts["pre"] in GGUF_PRE_TOKENIZERS:
        backend.pre_tokenizer = GGUF_PRE_TOKENIZERS[facts["pre"]]()
    split = [text for id, text in facts["control"] if backend.encode(text, add_special_tokens=False).ids != [id]]
    backend.add_special_tokens([AddedToken(text, normalized=False) for text in split])
    tokenizer.model_max_length = facts["context_length"] or LARGEST_LENGTH
    if facts["chat_template"]:
        tokenizer.chat_template = facts["chat_template"]
    return tokenizer


def gguf_facts(path: Path) -> dict[str, Any]:
    """What the file says of its tokenizer: pre, context_length, chat_template, control [(id, text)]."""
    fields = GGUFReader(path).fields
    value = {name: field.contents for name, field in fields.items()}
    architecture = value["general.architecture"]()
    kinds = value["tokenizer.ggml.token_type"]() if "tokenizer.ggml.token_type" in fields else []
    control = [i for i, kind in enumerate(kinds) if kind == TokenType.CONTROL]
    texts = value["tokenizer.ggml.tokens"]
    optional = {
        "pre": "tokenizer.ggml.pre",
        "context_length": f"{architecture}.context_length",
        "chat_template": "tokenizer.chat_template",
    }
    return {name: value[key]() if key in value else None for name, key in optional.items()} | {"control": [(i, texts(i)) for i in control]}
