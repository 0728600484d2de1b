"""Segments → ids, and how many of the ids belong to each segment.

    segments   "USER: hi " | "ASSISTANT:" + " Hello"          + means glued: encoded in one with the segment before
    texts      "USER: hi "   "ASSISTANT: Hello"               one encode_batch over all of a block
    ids         5 6 7         8 9 | 10                        a token belongs to the segment of its first character

A byte-level tokenizer that only cuts text says by the bytes of its tokens where each one begins; of another one the
offsets are asked. Texts with guarded special tokens go to the tokenizer's twin.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise

import numpy as np
import tokenizers

from axolotl_core.errors import DataError
from axolotl_core.tokens.guard import GUARD
from axolotl_core.tokens.tokenizer import Tokenizer


@dataclass
class Cut:
    """ids: of all segments, int32; lengths: how many of them each has, int64.

    lost: segments with whose group the ids do not give the text back; problems: what is wrong with a segment's group.
    """

    ids: np.ndarray
    lengths: np.ndarray
    lost: list[int] = field(default_factory=list)
    problems: dict[int, str] = field(default_factory=dict)


NO_IDS, NO_LENGTHS = np.zeros(0, np.int32), np.zeros(0, np.int64)


class Cutter:
    """Encodes segments with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.round_trip = tokenizer, tokenizer.round_trip

    def cut(self, texts: list[str], glue: np.ndarray) -> Cut:
        """texts and glue: of each segment; the first is not glued."""
        heads = np.flatnonzero(~glue)
        bounds = np.append(heads, len(texts)).tolist()
        groups = texts if len(heads) == len(texts) else ["".join(texts[a:b]) for a, b in pairwise(bounds)]
        if GUARD not in "".join(texts):
            return self._plain(texts, groups, bounds)
        guarded = np.fromiter((GUARD in group for group in groups), bool, len(groups))
        return self._mixed(texts, bounds, guarded)

    def _plain(self, texts: list[str], groups: list[str], bounds: list[int]) -> Cut:
        if not self.round_trip.only_cuts:
            return self._by_offsets(texts, groups, bounds)
        found = [encoding.ids for encoding in self.tokenizer.backend.encode_batch_fast(groups, add_special_tokens=False)]
        ids = np.fromiter(chain.from_iterable(found), np.int32)
        begins = np.concatenate([[0], np.cumsum(self.round_trip.lengths[ids])])
        ends = np.cumsum(np.fromiter((len(text.encode()) for text in texts), np.int64, len(texts)))
        tokens = np.cumsum(np.fromiter(map(len, found), np.int64, len(found)))
        if not np.array_equal(begins[tokens], ends[np.array(bounds[1:]) - 1]):  # some text has lost bytes
            return self._by_offsets(texts, groups, bounds)
        stops = np.searchsorted(begins[:-1], ends, side="left")
        return Cut(ids, np.diff(stops, prepend=0))

    def _by_offsets(self, texts: list[str], groups: list[str], bounds: list[int]) -> Cut:
        encodings = self.tokenizer.backend.encode_batch(groups, add_special_tokens=False)
        found = [encoding.ids for encoding in encodings]
        lengths = [n for g, e in enumerate(encodings) for n in lengths_of(texts[bounds[g] : bounds[g + 1]], e)]
        lost = [bounds[g] for g in self.round_trip.lost(groups, found)]
        return Cut(np.fromiter(chain.from_iterable(found), np.int32), np.array(lengths, np.int64), lost)

    def _mixed(self, texts: list[str], bounds: list[int], guarded: np.ndarray) -> Cut:
        """Groups with guarded special tokens one by one by the twin, all others at once, and put together in their order."""
        own = [texts[first:last] for first, last in pairwise(bounds)]
        plain = [g for g in range(len(own)) if not guarded[g]]
        rest = [text for g in plain for text in own[g]]
        inner = np.concatenate([[0], np.cumsum([len(own[g]) for g in plain])]).astype(int).tolist()
        cut = self._plain(rest, ["".join(own[g]) for g in plain], inner) if plain else Cut(NO_IDS, NO_LENGTHS)
        heads = {inner[i]: bounds[g] for i, g in enumerate(plain)}
        stops = np.append(0, np.cumsum(cut.lengths))
        parts = {g: Cut(cut.ids[stops[a] : stops[b]], cut.lengths[a:b]) for g, (a, b) in zip(plain, pairwise(inner), strict=True)}
        whole = Cut(NO_IDS, NO_LENGTHS, [heads[s] for s in cut.lost])
        for g in np.flatnonzero(guarded).tolist():
            try:
                parts[g] = self._guarded(own[g])
            except DataError as error:
                whole.problems[bounds[g]] = str(error)
                parts[g] = Cut(NO_IDS, np.zeros(len(own[g]), np.int64))
            whole.lost += [bounds[g]] if parts[g].lost else []
        whole.ids, whole.lengths = (np.concatenate([getattr(parts[g], name) for g in range(len(own))]) for name in ("ids", "lengths"))
        return whole

    def _guarded(self, texts: list[str]) -> Cut:
        twin = self.tokenizer.twin
        aliased = [twin.aliased(text) for text in texts]
        encoding = twin.backend.encode("".join(aliased), add_special_tokens=False)
        ids = twin.real(encoding.ids)
        lost = self.round_trip.lost(["".join(texts).replace(GUARD, "")], [ids])
        return Cut(np.array(ids, np.int32), np.array(lengths_of(aliased, encoding), np.int64), lost)


def lengths_of(texts: Sequence[str], encoding: tokenizers.Encoding) -> list[int]:
    """How many tokens of a text belong to each of its parts: those whose first character is in it."""
    count, at, start, lengths = len(encoding), 0, 0, []
    for i, text in enumerate(texts):
        at += len(text)
        stop = count if i == len(texts) - 1 else max(start, _token_at(encoding, at, count))
        lengths.append(stop - start)
        start = stop
    return lengths


def _token_at(encoding: tokenizers.Encoding, character: int, count: int) -> int:
    """Index of the first token that begins at `character` or behind it."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if encoding.token_to_chars(middle)[0] < character:
            low = middle + 1
        else:
            high = middle
    return low
