"""Encoded rows in columns, as they pass from the encoder and the row cache to the store.

ids      5 6 7 | 8 9 | (nothing)      offsets 0 3 5 5
labels  -100 6 7 | …                  reasons None None "no trained token"
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from axolotl_core.prompts.example import ROLES

STATS = (*(f"tokens_{r}" for r in ROLES), *(f"trained_{r}" for r in ROLES), "turns", "unended", "control", "lossy")
"""Counts kept of every row. unended: turns whose end is not trained; control: special tokens in the user's fields."""
COLUMN = {name: i for i, name in enumerate(STATS)}


@dataclass(frozen=True)
class Encoded:
    """n rows. ids and labels are flat int32, offsets int64 (n + 1), stats int32 (n, len(STATS)).

    reasons: why a row is no sample; bad: whether that is because it is malformed. A row that is not a sample has no ids.
    split: names of what looks like special tokens and was split, a line each, mostly empty.
    """

    ids: np.ndarray
    labels: np.ndarray
    offsets: np.ndarray
    stats: np.ndarray
    split: list[str]
    reasons: list[str | None]
    bad: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


def pick(parts: Sequence[Encoded], part: np.ndarray, row: np.ndarray) -> Encoded:
    """Row row[i] of parts[part[i]], for each i."""
    starts, lengths = np.zeros(len(part), np.int64), np.zeros(len(part), np.int64)
    groups = [(parts[p], np.flatnonzero(part == p)) for p in np.unique(part).tolist()]
    stats, bad = np.zeros((len(part), len(STATS)), np.int32), np.zeros(len(part), bool)
    for source, mine in groups:
        starts[mine], lengths[mine] = source.offsets[row[mine]], source.lengths[row[mine]]
        stats[mine], bad[mine] = source.stats[row[mine]], source.bad[row[mine]]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids, labels = np.empty(offsets[-1], np.int32), np.empty(offsets[-1], np.int32)
    for source, mine in groups:
        read, write = _spread(starts[mine], lengths[mine]), _spread(offsets[:-1][mine], lengths[mine])
        ids[write], labels[write] = source.ids[read], source.labels[read]
    pairs = list(zip(part.tolist(), row.tolist(), strict=True))
    return Encoded(ids, labels, offsets, stats, [parts[p].split[r] for p, r in pairs], [parts[p].reasons[r] for p, r in pairs], bad)


def _spread(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Indexes of all tokens of pieces: starts [4, 9], lengths [2, 1] → 4 5 9."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
