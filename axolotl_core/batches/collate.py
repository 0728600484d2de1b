"""A row's samples collated end to end.

    samples [[5, 6, 7], [8, 9]], T = 6  →  ids        5  6  7  8  9  0
                                           labels  -100  6  7 -100 9 -100
                                           positions  0  1  2  0  1  0
                                           bounds  0 3 5

The first label of each sample is -100: it would be predicted from the last token of its neighbour. Positions restart
with each sample, and padding counts as a sample of its own, which is what keeps attention inside the samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from axolotl_core.labels import IGNORE_INDEX


@dataclass(frozen=True)
class PackedRow:
    """One row of T tokens, int64; bounds: where samples begin, and the end of the last."""

    ids: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    bounds: np.ndarray


def collate_row(samples: Sequence[tuple[np.ndarray, np.ndarray]], length: int, pad_id: int) -> PackedRow:
    """Put (ids, labels) of each sample into a row of `length` tokens. Raises ValueError when they do not fit."""
    bounds = np.cumsum([0, *(len(ids) for ids, _ in samples)])
    if bounds[-1] > length:
        raise ValueError(f"the samples have {bounds[-1]} tokens, the row has room for {length}")
    row_ids = np.full(length, pad_id, np.int64)
    row_labels = np.full(length, IGNORE_INDEX, np.int64)
    positions = np.zeros(length, np.int64)
    for (ids, labels), start, end in zip(samples, bounds[:-1], bounds[1:], strict=True):
        row_ids[start:end] = ids
        row_labels[start + 1 : end] = labels[1:]
        positions[start:end] = np.arange(end - start)
    positions[bounds[-1] :] = np.arange(length - bounds[-1])
    return PackedRow(row_ids, row_labels, positions, bounds)
