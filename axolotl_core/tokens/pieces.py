"""Long texts encoded piece by piece, to the ids of the whole: the tokenizers library takes some 200 bytes for each byte of a text.

    "… in the water. Axolotls keep | their gills all their lives …"

A text is cut in front of a blank that stands between an ASCII letter, digit or mark and an ASCII letter, where two things hold:

1. no token of the vocabulary has a blank behind such a character, so none can lie across the border, and BPE, Unigram and
   WordPiece find the same tokens on either side whatever stands on the other;
2. the characters around the border, encoded as one and in two, give the same ids: what comes before the model (normalizer,
   pre-tokenizer, added tokens that swallow blanks) sees no further than that.

Some tokenizers put a blank in front of every text; with these the second piece begins behind the blank. A text for which no border
is found, or a tokenizer with tokens of several words, is encoded as a whole.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import tokenizers

LONG, PIECE = 1 << 17, 1 << 15
"""Characters: a longer text is cut, into pieces of about so many."""
CHUNK = 1 << 19
"""Characters that are encoded at once: about 100 MB."""
AROUND = 200
"""Characters before and behind a border that are encoded to test it."""
MOST_TRIES = 20
BEFORE = r"[A-Za-z0-9.,;:!?)\]]"
BORDER = re.compile(rf"(?<={BEFORE}) (?=[A-Za-z])")
CROSSING = re.compile(rf"{BEFORE}[Ġ▁ ]")
"""A token with such a pair in it could lie across a border; Ġ and ▁ are how byte-level and sentencepiece vocabularies write a blank."""


@dataclass(frozen=True)
class Part:
    """A piece of text number `of`, which begins at its character `start`."""

    of: int
    start: int
    text: str


class Pieces:
    """Cuts texts for one tokenizer."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self.backend = backend

    def chunks(self, texts: Sequence[str]) -> Iterator[list[Part]]:
        """All parts of all texts in order, as many at once as are to be encoded together."""
        chunk: list[Part] = []
        size = 0
        for i, text in enumerate(texts):
            for part in self._parts(i, text):
                if size + len(part.text) > CHUNK and chunk:
                    yield chunk
                    chunk, size = [], 0
                chunk.append(part)
                size += len(part.text)
        if chunk:
            yield chunk

    def _parts(self, of: int, text: str) -> Iterator[Part]:
        start = 0
        while len(text) - start > LONG and self.can_cut:
            border = self._border(text, start + PIECE)
            if border is None:
                break
            yield Part(of, start, text[start:border])
            start = border + self.skips_blank
        yield Part(of, start, text[start:] if start else text)

    def _border(self, text: str, start: int) -> int | None:
        """The first place behind `start` that a text can be cut in front of."""
        for tried, match in enumerate(BORDER.finditer(text, start)):
            if tried == MOST_TRIES:
                return None
            if self._holds(text, match.start(), self.skips_blank):
                return match.start()
        return None

    def _holds(self, text: str, border: int, skip: bool) -> bool:
        before, behind = text[max(0, border - AROUND) : border], text[border : border + AROUND]
        return self._ids(before + behind) == self._ids(before) + self._ids(behind[skip:])

    def _ids(self, text: str) -> list[int]:
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    @cached_property
    def can_cut(self) -> bool:
        """Whether no token can lie across a border, and a plain text can be cut."""
        words = self.backend.get_vocab(with_added_tokens=False)
        return not any(CROSSING.search(token) for token in words) and self._skip is not None

    @property
    def skips_blank(self) -> bool:
        """Whether a piece begins behind the blank, which the tokenizer puts there by itself."""
        return bool(self._skip)

    @cached_property
    def _skip(self) -> bool | None:
        probe = "plain words. and more of them"
        return next((skip for skip in (False, True) if self._holds(probe, probe.index(" and"), skip)), None)


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Ids of several chunks as one int32 array."""
    return np.concatenate(parts) if len(parts) != 1 else parts[0]
