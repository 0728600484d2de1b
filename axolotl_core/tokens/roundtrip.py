"""Whether ids give their text back.

Byte-level and byte-fallback tokenizers write a text as the bytes of its tokens one after another, so a whole block is
checked by joining them; what differs there, and every text of another kind of tokenizer, is decoded properly. Of a
byte-level tokenizer that `only_cuts` the text into pieces it is enough that the numbers of bytes are equal (cut.py).
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import tokenizers

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
BLANK = "▁"
BLOCK_IDS = 1 << 20


class RoundTrip:
    """Knows the bytes of every token of a tokenizer."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self.backend = backend
        self.added = backend.get_added_tokens_decoder()
        decoder = _state(backend.decoder)
        self.byte_level = "ByteLevel" in decoder
        self.byte_fallback = "ByteFallback" in decoder and not self.byte_level
        self.only_cuts = self.byte_level and _only_cuts(backend)

    @cached_property
    def bytes_of(self) -> dict[int, bytes]:
        """Bytes of every token; empty where tokens are no bytes."""
        if not self.byte_level and not self.byte_fallback:
            return {}
        of = _byte_level if self.byte_level else _byte_fallback
        plain = {id: of(token) for token, id in self.backend.get_vocab(with_added_tokens=False).items()}
        return plain | {id: token.content.encode() for id, token in self.added.items()}

    @cached_property
    def lengths(self) -> np.ndarray:
        """Bytes of a byte-level tokenizer's tokens: a character of theirs is a byte."""
        vocabulary = self.backend.get_vocab(with_added_tokens=False)
        lengths = np.zeros(max([*vocabulary.values(), *self.added], default=0) + 1, np.int32)
        lengths[np.fromiter(vocabulary.values(), np.int64)] = np.fromiter(map(len, vocabulary), np.int32)
        for id, token in self.added.items():
            lengths[id] = len(token.content.encode())
        return lengths

    def lost(self, texts: Sequence[str], ids: Sequence[np.ndarray]) -> list[int]:
        """Indexes of the texts that their ids (int32) do not give back."""
        if self.bytes_of and len(ids) > 1 and self._joined(np.concatenate(ids)) == "".join(texts).encode():
            return []
        return [i for i, (text, own) in enumerate(zip(texts, ids, strict=True)) if not self._same(text, own)]

    def _joined(self, ids: np.ndarray) -> bytes:
        blocks = (ids[i : i + BLOCK_IDS].tolist() for i in range(0, len(ids), BLOCK_IDS))
        return b"".join(b"".join(map(self.bytes_of.__getitem__, block)) for block in blocks)

    def _same(self, text: str, ids: np.ndarray) -> bool:
        if self.bytes_of:
            wanted = text.encode()
            if wanted in (self._joined(ids), self._without_blanks_in_front(ids)):
                return True
        decoded = str(self.backend.decode(ids.tolist(), skip_special_tokens=False))
        return decoded in (text, text.removeprefix(" ")) or unicodedata.normalize("NFC", text) == decoded

    def _without_blanks_in_front(self, ids: np.ndarray) -> bytes:
        """Sentencepiece puts a blank in front of a text, and of what follows a special token."""
        parts, at = [], 0
        for end in (*np.flatnonzero(np.isin(ids, list(self.added))).tolist(), len(ids)):
            parts += [self._joined(ids[at:end]).removeprefix(b" "), self._joined(ids[end : end + 1])]
            at = end + 1
        return b"".join(parts)


def _only_cuts(backend: tokenizers.Tokenizer) -> bool:
    """Whether a byte-level tokenizer changes no text; it still loses bytes that it has no token for."""
    pre = _state(backend.pre_tokenizer)
    swallows = any(token.lstrip or token.rstrip for token in backend.get_added_tokens_decoder().values())
    removes = '"Removed"' in pre or '"add_prefix_space":true' in pre or any(f'"{kind}"' in pre for kind in NOT_LOSSLESS)
    return backend.normalizer is None and not swallows and not removes


def _state(part: Any) -> str:
    """A tokenizer's part as JSON."""
    return part.__getstate__().decode() if part is not None else "null"


NOT_LOSSLESS = ("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "CharDelimiterSplit", "Metaspace")


def _byte_level(token: str) -> bytes:
    """`Ġa` → b" a": GPT-2's table of printable characters for bytes."""
    return bytes(BYTES.get(character, 63) for character in token)


def _byte_fallback(token: str) -> bytes:
    byte = BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(BLANK, " ").encode()


def _table() -> dict[str, int]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


BYTES = _table()
"""Character → byte, as GPT-2's tokenizer has it (Radford et al. 2019)."""
