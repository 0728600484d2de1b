"""Rows of the plan → tensors.   B rows, T tokens"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from axolotl_core.packing.index import read_rows
from axolotl_core.packing.lay import UNTRAINED, Laid, lay
from axolotl_core.packing.plan import Rows
from axolotl_core.tokens.samples import Samples
from axolotl_core.tokens.tokenizer import Tokenizer

ROUND_TO = 64
"""Rows that are not padded to sequence_len are padded to a multiple of this."""


@dataclass(frozen=True)
class Batch:
    """`sets_BT`: which data set each token is of, -1 for padding. `targets`: labels that some position predicts."""

    ids_BT: Tensor
    labels_BT: Tensor
    positions_BT: Tensor
    sets_BT: Tensor

    def __post_init__(self) -> None:
        shape = self.ids_BT.shape
        assert len(shape) == 2
        assert all(t.shape == shape for t in (self.labels_BT, self.positions_BT, self.sets_BT))
        first = self.positions_BT == 0
        assert bool(first[:, 0].all()), "a row begins with a sample"
        assert not bool((first & (self.labels_BT != UNTRAINED)).any()), "a sample's first label is trained by its neighbour"

    @property
    def targets(self) -> int:
        return int((self.labels_BT != UNTRAINED).sum())

    def place(self, device: torch.device) -> "Inputs":
        """On the device, without waiting for it: what has to be counted is counted here, on the CPU."""
        picks_N = (self.labels_BT[:, 1:] != UNTRAINED).nonzero()
        rows_N, columns_N = picks_N.unbind(1)
        chosen = (rows_N, columns_N + 1)
        tensors = (
            self.ids_BT,
            self.positions_BT,
            rows_N * self.ids_BT.shape[1] + columns_N,
            self.labels_BT[chosen],
            self.sets_BT[chosen],
        )
        pinned = device.type == "cuda"
        return Inputs(*((t.pin_memory() if pinned else t).to(device, non_blocking=pinned) for t in tensors))


class Inputs(NamedTuple):
    """A batch as the model takes it. picks_N: the flat positions that predict a trained label, labels_N: these labels."""

    ids_BT: Tensor
    positions_BT: Tensor
    picks_N: Tensor
    labels_N: Tensor
    sets_N: Tensor

    def untrained(self) -> "Inputs":
        """The same tokens with no label: a pass through the model that teaches nothing."""
        return self._replace(picks_N=self.picks_N[:0], labels_N=self.labels_N[:0], sets_N=self.sets_N[:0])


@dataclass(frozen=True)
class RowSource:
    """Rows of packed/train or packed/eval with the tokens they name."""

    rows: Rows
    samples: Sequence[Samples]
    pad_id: int
    sequence_len: int
    pad_to_sequence_len: bool

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The rows of these numbers, padded to one length."""
        pieces = [self._pieces(number) for number in numbers]
        longest = max(sum(len(ids) for _, ids, _ in row) for row in pieces)
        rounded = -(-longest // ROUND_TO) * ROUND_TO
        length = self.sequence_len if self.pad_to_sequence_len else min(rounded, max(self.sequence_len, longest))
        laid = [lay([(ids, labels) for _, ids, labels in row], length, self.pad_id) for row in pieces]
        sets = [_sets([name for name, _, _ in row], one) for row, one in zip(pieces, laid, strict=True)]
        columns = ([one.ids for one in laid], [one.labels for one in laid], [one.positions for one in laid], sets)
        return Batch(*(torch.from_numpy(np.stack(column)) for column in columns))

    def targets(self, numbers: Sequence[int]) -> int:
        """Trained tokens of the rows of these numbers: what `batch(numbers).targets` is, without making tensors."""
        return sum(int((labels[1:] != UNTRAINED).sum()) for number in numbers for _, _, labels in self._pieces(number))

    def lengths(self) -> tuple[int, ...]:
        """Tokens of each row."""
        sizes = np.concatenate([[0], np.cumsum(self.rows.pieces.end - self.rows.pieces.start)])
        return tuple(np.diff(sizes[self.rows.offsets]).tolist())

    def batches(self, numbers: Sequence[int], size: int) -> Iterator[Batch]:
        """Batches of at most `size` rows, in order."""
        for first in range(0, len(numbers), size):
            yield self.batch(numbers[first : first + size])

    def _pieces(self, number: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
        found = []
        pieces = self.rows.pieces[slice(*self.rows.offsets[number : number + 2])]
        for data, sample, start, end in zip(pieces.dataset, pieces.sample, pieces.start, pieces.end, strict=True):
            ids, labels = self.samples[data].sample(int(sample))
            found.append((int(data), ids[start:end], labels[start:end]))
        return found


def _sets(names: list[int], laid: Laid) -> np.ndarray:
    sets = np.full(len(laid.ids), -1, np.int64)
    for name, start, end in zip(names, laid.bounds[:-1], laid.bounds[1:], strict=True):
        sets[start:end] = name
    return sets


def open_rows(packed: Path, part: str, tokens: Path, facts: dict, pad_id: int) -> RowSource:
    """`part` is train or eval; facts: the manifest of packed/."""
    samples = [Samples(tokens / name) for name in facts["datasets"]]
    return RowSource(read_rows(packed / part), samples, pad_id, facts["sequence_len"], facts["pad_to_sequence_len"])


@dataclass(frozen=True)
class Data:
    """Rows to train on and rows held out; names: data sets; tokens: of all training rows; new_tokens: new to the base model."""

    train: RowSource
    held_out: RowSource
    names: Sequence[str]
    packed: bool
    tokens: int
    trained_tokens: int
    tokenizer: Tokenizer
    new_tokens: Sequence[str] = ()
