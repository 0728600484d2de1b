"""Which rows each optimizer step sees: a function of the packed plan, the seed and the step alone.

    7 rows, batch_size 3, 2 epochs → steps per epoch 3: [5 0 2] [6 1 4] [3] | [2 6 0] [5 3 1] [4]

So a resumed run skips nothing, and the number of processes or the micro-batch size cannot be seen in it. Processes take
the micro-batches of a step in turns:

    step [5 0 2 6 1], micro_batch_size 1, 2 processes → rank 0: [5] [2] [1]   rank 1: [0] [6] []
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from axolotl_core.params.training import Training


@dataclass(frozen=True)
class Plan:
    """`total`: optimizer steps of the whole run. lengths: tokens of each row, where rows are grouped by length."""

    rows: int
    batch_size: int
    epochs: float
    seed: int
    max_steps: int | None = None
    lengths: tuple[int, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, training: Training, rows: int, lengths: tuple[int, ...] = ()) -> "Plan":
        """The plan of a run on so many rows."""
        return cls(rows, training.batch_size, training.num_epochs, training.seed, training.max_steps, lengths)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows // self.batch_size)

    @property
    def total(self) -> int:
        steps = max(1, math.ceil(self.steps_per_epoch * self.epochs - 1e-9))
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def rows_of(self, step: int) -> list[int]:
        """Rows of optimizer step `step`, from 0; the last step of an epoch may have fewer."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = _order(self.rows, self.seed, epoch, self.batch_size, self.lengths)
        return order[place * self.batch_size : (place + 1) * self.batch_size].tolist()

    def ends_part(self, step: int, parts: int) -> bool:
        """Whether step `step` (from 0) is the last of one of `parts` equal parts of its epoch, or of the run.

        >>> [step for step in range(7) if Plan(7, 1, 1.0, 0).ends_part(step, 3)]
        [2, 4, 6]
        """
        place, steps = step % self.steps_per_epoch, self.steps_per_epoch
        return (place + 1) * parts // steps > place * parts // steps or step + 1 == self.total

    def ends_epoch(self, step: int) -> bool:
        """Whether step `step` (from 0) is the last of its epoch, or of the run."""
        return (step + 1) % self.steps_per_epoch == 0 or step + 1 == self.total


MEGA = 50
"""Batches that are sorted together when rows are grouped by length, as in transformers' LengthGroupedSampler."""


@lru_cache(maxsize=2)
def _order(rows: int, seed: int, epoch: int, batch_size: int, lengths: tuple[int, ...]) -> np.ndarray:
    order = np.random.default_rng([seed % 2**64, epoch]).permutation(rows)
    return _grouped(order, batch_size, np.array(lengths)) if lengths else order


def _grouped(order: np.ndarray, batch_size: int, lengths: np.ndarray) -> np.ndarray:
    """Blocks of up to 50 batches, each sorted by falling length; the longest row of all comes first, so that memory
    runs out at once or never."""
    size = max(1, min(len(order) // (batch_size * 4), MEGA)) * batch_size
    blocks = [order[first : first + size] for first in range(0, len(order), size)]
    blocks = [block[np.argsort(-lengths[block], kind="stable")] for block in blocks]
    longest = max(range(len(blocks)), key=lambda i: lengths[blocks[i][0]])
    blocks[0][0], blocks[longest][0] = blocks[longest][0], blocks[0][0]
    return np.concatenate(blocks)


class MicroBatch(NamedTuple):
    """rows: none where this process only keeps step with the others. number: its place among all of the step."""

    number: int
    rows: Sequence[int]


def micro_batches_of_rank(rows: Sequence[int], micro_batch_size: int, rank: int, ranks: int) -> list[MicroBatch]:
    """The micro-batches of one process: each has as many, so that all meet in every exchange."""
    size = min(micro_batch_size, -(-len(rows) // ranks))
    cut = [rows[first : first + size] for first in range(0, len(rows), size)]
    count = -(-len(cut) // ranks)
    numbers = [rank + ranks * turn for turn in range(count)]
    return [MicroBatch(number, cut[number] if number < len(cut) else ()) for number in numbers]
