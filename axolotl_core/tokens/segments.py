"""Segments → ids, and how many of the ids belong to each segment.

    segments   "USER: hi " | "ASSISTANT:" + " Hello"          + means glued: encoded in one with the segment before
    texts      "USER: hi "   "ASSISTANT: Hello"               one encode_batch over all of a block
    ids         5 6 7         8 9 | 10                        a token belongs to the segment of its first character

A byte-level tokenizer that only cuts text says by the bytes of its tokens where each one begins; of another one the
offsets are asked. Texts with guarded special tokens go to the tokenizer's twin.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise

import numpy as np

from axolotl_core.errors import DataError
from axolotl_core.tokens.guard import GUARD
from axolotl_core.tokens.pieces import joined
from axolotl_core.tokens.tokenizer import Tokenizer


@dataclass
class Tokenized:
    """ids: of all segments, int32; lengths: how many of them each has, int64.

    lost: segments with whose group the ids do not give the text back; problems: what is wrong with a segment's group.
    """

    ids: np.ndarray
    lengths: np.ndarray
    lost: list[int] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)


STEP = 1 << 20
NO_IDS, NO_LENGTHS = np.zeros(0, np.int32), np.zeros(0, np.int64)


class SegmentTokenizer:
    """Encodes segments with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.round_trip, self.pieces = tokenizer, tokenizer.round_trip, tokenizer.pieces

    def tokenize(self, texts: list[str], glue: np.ndarray) -> Tokenized:
        """texts and glue: of each segment; the first is not glued."""
        heads = np.flatnonzero(~glue)
        bounds = np.append(heads, len(texts)).tolist()
        groups = texts if len(heads) == len(texts) else ["".join(texts[a:b]) for a, b in pairwise(bounds)]
        if not any(GUARD in text for text in texts):
            return self._plain(texts, groups, bounds)
        guarded = np.fromiter((GUARD in group for group in groups), bool, len(groups))
        return self._mixed(texts, bounds, guarded)

    def _plain(self, texts: list[str], groups: list[str], bounds: list[int]) -> Tokenized:
        if not self.round_trip.only_cuts:
            return self._by_offsets(texts, groups, bounds)
        ids, tokens = self._encoded(groups)
        sizes = np.fromiter((_bytes(text) for text in texts), np.int64, len(texts))
        kind = np.int32 if sizes.sum() < 2**31 else np.int64
        begins = np.zeros(len(ids) + 1, kind)
        for at in range(0, len(ids), STEP):
            begins[at + 1 : at + 1 + STEP] = self.round_trip.lengths[ids[at : at + STEP]]
        np.cumsum(begins, out=begins)
        ends = np.cumsum(sizes)
        if not np.array_equal(begins[np.cumsum(tokens)], ends[np.array(bounds[1:]) - 1]):  # some text has lost bytes
            return self._by_offsets(texts, groups, bounds)
        stops = np.searchsorted(begins[:-1], ends.astype(kind), side="left")  # of another kind they would be copied
        return Tokenized(ids, np.diff(stops, prepend=0))

    def _encoded(self, groups: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """ids of all groups, and how many each has."""
        ids, tokens = [NO_IDS], np.zeros(len(groups), np.int64)
        for parts in self.pieces.chunks(groups):
            found = [e.ids for e in self.tokenizer.backend.encode_batch_fast([part.text for part in parts], add_special_tokens=False)]
            ids.append(np.fromiter(chain.from_iterable(found), np.int32))
            np.add.at(tokens, [part.of for part in parts], [len(own) for own in found])
        return joined(ids), tokens

    def _by_offsets(self, texts: list[str], groups: list[str], bounds: list[int]) -> Tokenized:
        ids: list[np.ndarray] = []
        lengths = np.zeros(len(texts), np.int64)
        for g, found, starts in self._with_offsets(groups):
            ids.append(found)
            lengths[bounds[g] : bounds[g + 1]] = lengths_of(texts[bounds[g] : bounds[g + 1]], starts)
        return Tokenized(joined([NO_IDS, *ids]), lengths, [bounds[g] for g in self.round_trip.lost(groups, ids)])

    def _with_offsets(self, groups: list[str]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Of each group its number, its ids, and the character that each token begins with."""
        of, ids, starts = 0, list[np.ndarray](), list[np.ndarray]()
        for parts in self.pieces.chunks(groups):
            encodings = self.tokenizer.backend.encode_batch([part.text for part in parts], add_special_tokens=False)
            for part, encoding in zip(parts, encodings, strict=True):
                if part.of != of:
                    yield of, joined(ids), joined(starts)
                    of, ids, starts = part.of, [], []
                ids.append(np.array(encoding.ids, np.int32))
                starts.append(np.fromiter((start for start, _ in encoding.offsets), np.int64) + part.start)
        if ids:
            yield of, joined(ids), joined(starts)

    def _mixed(self, texts: list[str], bounds: list[int], guarded: np.ndarray) -> Tokenized:
        """Groups with guarded special tokens one by one by the shadow tokenizer, all others at once, and put together in their order."""
        own = [texts[first:last] for first, last in pairwise(bounds)]
        plain = [g for g in range(len(own)) if not guarded[g]]
        rest = [text for g in plain for text in own[g]]
        inner = np.concatenate([[0], np.cumsum([len(own[g]) for g in plain])]).astype(int).tolist()
        made = self._plain(rest, ["".join(own[g]) for g in plain], inner) if plain else Tokenized(NO_IDS, NO_LENGTHS)
        heads = {inner[i]: bounds[g] for i, g in enumerate(plain)}
        stops = np.append(0, np.cumsum(made.lengths))
        parts = {g: Tokenized(made.ids[stops[a] : stops[b]], made.lengths[a:b]) for g, (a, b) in zip(plain, pairwise(inner), strict=True)}
        joint = Tokenized(NO_IDS, NO_LENGTHS, [heads[s] for s in made.lost])
        for g in np.flatnonzero(guarded).tolist():
            try:
                parts[g] = self._guarded(own[g])
            except DataError as error:
                joint.problems[bounds[g]] = str(error)
                parts[g] = Tokenized(NO_IDS, np.zeros(len(own[g]), np.int64))
            joint.lost += [bounds[g]] if parts[g].lost else []
        joint.ids, joint.lengths = (np.concatenate([getattr(parts[g], name) for g in range(len(own))]) for name in ("ids", "lengths"))
        return joint

    def _guarded(self, texts: list[str]) -> Tokenized:
        twin = self.tokenizer.twin
        aliased = [twin.aliased(text) for text in texts]
        encoding = twin.backend.encode("".join(aliased), add_special_tokens=False)
        ids = twin.real(encoding.ids)
        found = np.array(ids, np.int32)
        lost = self.round_trip.lost(["".join(texts).replace(GUARD, "")], [found])
        starts = np.fromiter((start for start, _ in encoding.offsets), np.int64)
        return Tokenized(found, lengths_of(aliased, starts), lost)


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def lengths_of(texts: Sequence[str], starts: np.ndarray) -> np.ndarray:
    """How many tokens of a text belong to each of its parts: those whose first character is in it.

    starts: first character of each token, ascending. A token before the first part's end is never counted twice.
    """
    ends = np.cumsum([len(text) for text in texts])
    stops = np.maximum.accumulate(np.searchsorted(starts, ends, side="left"))
    stops[-1] = len(starts)
    return np.diff(stops, prepend=0)
