"""Long texts encoded piece by piece, to the ids of the whole: the tokenizers library takes some 200 bytes for each byte of a text.

    "… in the water. Axolotls keep | their gills all their lives …"

A text is cut in front of a single blank, or behind a newline or an ideographic mark, where two things hold:

1. no token of the vocabulary has such a place inside it, so none can lie across the border, and BPE, Unigram and WordPiece find
   the same tokens on either side whatever stands on the other;
2. the characters around the border, encoded as one and in two, give the same ids: what comes before the model (normalizer,
   pre-tokenizer, added tokens that swallow blanks) sees no further than that.

Some tokenizers put a blank in front of every text; with these the second piece begins behind the blank. A text for which no border
is found (one word of a megabyte), or a tokenizer with tokens of several words, is encoded as a whole.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
import tokenizers

from axolotl_core.tokens.roundtrip import BLANK, RoundTrip

LONG, PIECE = 1 << 17, 1 << 15
"""Characters: a longer text is cut, into pieces of about so many."""
CHUNK = 1 << 19
"""Characters that are encoded at once: about 100 MB."""
AROUND = 200
"""Characters before and behind a border that are encoded to test it."""
MOST_TRIES = 10


@dataclass(frozen=True)
class Border:
    """A kind of place to cut at: `place` matches with its start there, `inside` finds such a place in a token's text."""

    place: re.Pattern[str]
    inside: re.Pattern[str]
    blank: bool = False


BORDERS = (
    Border(re.compile(r"(?<=\S) (?=\S)"), re.compile(r"\S "), blank=True),
    Border(re.compile(r"(?<=\n)(?=\S)"), re.compile(r"\n\S")),
    Border(re.compile(r"(?<=[。！？，、；])(?=\w)"), re.compile(r"[。！？，、；]\w")),
)


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
        while len(text) - start > LONG:
            found = self._border(text, start + PIECE)
            if found is None:
                break
            border, skip = found
            yield Part(of, start, text[start:border])
            start = border + skip
        yield Part(of, start, text[start:] if start else text)

    def _border(self, text: str, start: int) -> tuple[int, bool] | None:
        """The first place behind `start` that a text can be cut at, and whether what follows begins behind a blank."""
        for kind, skip in self.kinds:
            for match in islice(kind.place.finditer(text, start, start + LONG), MOST_TRIES):
                if self._holds(text, match.start(), skip):
                    return match.start(), skip
        return None

    def _holds(self, text: str, border: int, skip: bool) -> bool:
        before, behind = text[max(0, border - AROUND) : border], text[border : border + AROUND]
        return self._ids(before + behind) == self._ids(before) + self._ids(behind[skip:])

    def _ids(self, text: str) -> list[int]:
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    @cached_property
    def kinds(self) -> list[tuple[Border, bool]]:
        """Kinds of places at which no token can lie across, each with whether a piece begins behind the blank."""
        words = _texts_of(self.backend)
        safe = [border for border in BORDERS if not any(border.inside.search(word) for word in words)]
        return [(border, skip) for border in safe for skip in ((False, True) if border.blank else (False,))]


def _texts_of(backend: tokenizers.Tokenizer) -> list[str]:
    """What each token of the vocabulary stands for; half a character is one that is no blank."""
    known = RoundTrip(backend).bytes_of
    vocabulary = backend.get_vocab(with_added_tokens=False)
    return [known[id].decode("utf-8", "replace") if known else word.replace(BLANK, " ") for word, id in vocabulary.items()]


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Ids of several chunks as one int32 array."""
    return np.concatenate(parts) if len(parts) != 1 else parts[0]
