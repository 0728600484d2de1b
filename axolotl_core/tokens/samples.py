"""tokens/<dataset> read back: samples through memory maps."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from axolotl_core.artifacts.table import batches
from axolotl_core.labels import IGNORE_INDEX


@dataclass
class Samples:
    """One dataset's samples, memory-mapped. Sample i is the i-th row of tokens/<dataset>."""

    folder: Path
    ids: list[np.ndarray] = field(init=False)
    labels: list[np.ndarray] = field(init=False)
    offsets: list[np.ndarray] = field(init=False)
    firsts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        found = list(batches(self.folder))
        self.ids = [batch.column("input_ids").values.to_numpy() for batch in found]
        self.labels = [batch.column("labels").values.to_numpy() for batch in found]
        self.offsets = [batch.column("input_ids").offsets.to_numpy() for batch in found]
        self.firsts = np.cumsum([0, *(batch.num_rows for batch in found)])

    def __len__(self) -> int:
        return int(self.firsts[-1])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sample, int32."""
        return np.concatenate([np.diff(offsets) for offsets in self.offsets] or [np.zeros(0, np.int32)])

    def sample(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """ids and labels of sample i, int32, views into the file."""
        b = int(np.searchsorted(self.firsts, i, side="right")) - 1
        start, end = self.offsets[b][i - self.firsts[b] : i - self.firsts[b] + 2]
        return self.ids[b][start:end], self.labels[b][start:end]

    def trained(self, samples: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """How many labels are trained in starts[i]..ends[i] of samples[i], one batch of the file at a time."""
        counts = np.zeros(len(samples), np.int64)
        blocks = np.searchsorted(self.firsts, samples, side="right") - 1
        for b in np.unique(blocks).tolist():
            mine = np.flatnonzero(blocks == b)
            before = np.concatenate([[0], np.cumsum(self.labels[b] != IGNORE_INDEX)])
            first = self.offsets[b][samples[mine] - self.firsts[b]]
            counts[mine] = before[first + ends[mine]] - before[np.minimum(first + starts[mine], first + ends[mine])]
        return counts
