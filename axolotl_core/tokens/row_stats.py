"""What is found out row by row while a block is encoded."""

import numpy as np

from axolotl_core.labels import IGNORE_INDEX
from axolotl_core.prompts.example import ROLES, Ids
from axolotl_core.tokens.encoded import COLUMN, STATS, Encoded, pick

NO_TRAINED_TOKEN = "no trained token"
EMPTY = np.zeros(0, np.int32)


class RowStats:
    """What is found out row by row while a block is encoded."""

    def __init__(self, count: int) -> None:
        self.counts, self.bad = np.zeros((count, len(STATS)), np.int32), np.zeros(count, bool)
        self.reasons: list[str | None] = [None] * count
        self.split = [""] * count

    def reject(self, i: int, reason: str) -> None:
        self.reasons[i], self.bad[i] = reason, True

    def encoded(self, ids: np.ndarray, labels: np.ndarray, lengths: np.ndarray) -> Encoded:
        return Encoded(ids, labels, np.concatenate([[0], np.cumsum(lengths)]), self.counts, self.split, self.reasons, self.bad)

    def without_rejected(self, made: Encoded) -> Encoded:
        """Rows without a target token get the reason; those with a reason lose what was encoded of them."""
        untrained = self.counts[:, len(ROLES) : 2 * len(ROLES)].sum(axis=1) == 0
        for i in np.flatnonzero(untrained & ~self.bad).tolist():
            self.reasons[i] = NO_TRAINED_TOKEN
        gone = untrained | self.bad
        self.counts[gone] = 0
        if not np.any(gone & (made.lengths > 0)):
            return made
        nothing = RowStats(1).encoded(EMPTY, EMPTY, np.zeros(1, np.int64))
        kept = pick([made, nothing], gone.astype(np.int64), np.where(gone, 0, np.arange(len(gone))))
        return self.encoded(kept.ids, kept.labels, kept.lengths)


def given_ids(own: list[tuple[int, Ids]], stats: RowStats, eos: int) -> Encoded:
    """Rows that came as ids. A turn's end is not trained where an untrained EOS follows what is trained."""
    lengths = np.zeros(len(stats.reasons), np.int64)
    for i, row in own:
        ids, trained = np.array(row.ids, np.int32), np.array(row.labels, np.int32) != IGNORE_INDEX
        stops = np.flatnonzero(trained[:-1] & ~trained[1:]) + 1
        lengths[i] = len(ids)
        stats.counts[i, COLUMN["tokens_text"]], stats.counts[i, COLUMN["trained_text"]] = len(ids), int(trained.sum())
        stats.counts[i, COLUMN["turns"]] = len(stops) + int(bool(len(ids)) and bool(trained[-1]))
        stats.counts[i, COLUMN["unended"]] = int(((ids[stops] == eos) & (ids[stops - 1] != eos)).sum())
    ids, labels = (np.array([v for _, row in own for v in getattr(row, side)], np.int32) for side in ("ids", "labels"))
    return stats.encoded(ids, labels, lengths)
