"""A batch on the CPU, and what of it the model gets.   B rows, T tokens, N target tokens"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from axolotl_core.attention.sequences import Sequences, place
from axolotl_core.labels import IGNORE_INDEX


@dataclass(frozen=True)
class Batch:
    """`dataset_ids_BT`: which dataset each token is of, -1 for padding. `targets`: labels that some position predicts."""

    ids_BT: Tensor
    labels_BT: Tensor
    positions_BT: Tensor
    dataset_ids_BT: Tensor

    def __post_init__(self) -> None:
        shape = self.ids_BT.shape
        assert len(shape) == 2
        assert all(t.shape == shape for t in (self.labels_BT, self.positions_BT, self.dataset_ids_BT))
        first = self.positions_BT == 0
        assert bool(first[:, 0].all()), "a row begins with a sample"
        assert not bool((first & (self.labels_BT != IGNORE_INDEX)).any()), "a sample's first label is trained by its neighbour"

    @property
    def targets(self) -> int:
        return int((self.labels_BT != IGNORE_INDEX).sum())

    @property
    def tokens(self) -> int:
        """Without padding."""
        return int((self.dataset_ids_BT >= 0).sum())

    def place(self, device: torch.device) -> "Inputs":
        """On the device, without waiting for it: what has to be counted is counted here, on the CPU."""
        target_positions_N = (self.labels_BT[:, 1:] != IGNORE_INDEX).nonzero()
        rows_N, columns_N = target_positions_N.unbind(1)
        chosen = (rows_N, columns_N + 1)
        tensors = (
            self.ids_BT,
            self.positions_BT,
            rows_N * self.ids_BT.shape[1] + columns_N,
            self.labels_BT[chosen],
            self.dataset_ids_BT[chosen],
        )
        return Inputs(*(place(tensor, device) for tensor in tensors), Sequences.of(self.positions_BT).placed(device))


class Inputs(NamedTuple):
    """A batch as the model takes it. target_positions_N: the flat positions that predict a target label, labels_N: these labels.

    sequences: where samples begin and end.
    """

    ids_BT: Tensor
    positions_BT: Tensor
    target_positions_N: Tensor
    labels_N: Tensor
    dataset_ids_N: Tensor
    sequences: Sequences

    def untrained(self) -> "Inputs":
        """The same tokens with no label: a pass through the model that teaches nothing."""
        return self._replace(
            target_positions_N=self.target_positions_N[:0], labels_N=self.labels_N[:0], dataset_ids_N=self.dataset_ids_N[:0]
        )
