"""`tokenizer`: which tokenizer, and the tokens added to it. An edit re-runs at most fetch-tokenizer, then tokenize onward."""

from typing import Annotated, Literal

from axolotl_core.params.section import Section, Supported


class Tokenizer(Section):
    """Which tokenizer, and the tokens added to it."""

    tokenizer_config: str | None = None
    """Hub repository, folder or GGUF to take the tokenizer from; unset: that of base_model."""
    tokenizer_type: str = "AutoTokenizer"
    """Class in transformers."""
    tokenizer_use_fast: Annotated[bool, Supported()] = True
    """The tokenizers library encodes everything here; only fast tokenizers are supported."""
    tokenizer_legacy: bool | None = None
    """Whether a sentencepiece tokenizer adds a space behind special tokens too; unset: as its own config says."""
    special_tokens: dict[Literal["bos_token", "eos_token", "pad_token", "unk_token"], str] = {}
    """Special tokens to set; one that the vocabulary lacks is added."""
    tokens: list[str] = []
    """Tokens to add to the vocabulary; they are always recognised in text."""
