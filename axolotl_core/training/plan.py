"""Which rows each optimizer step sees: a function of the packed plan, the seed and the step alone.

    7 rows, batch_size 3, 2 epochs → steps per epoch 3: [5 0 2] [6 1 4] [3] | [2 6 0] [5 3 1] [4]

So a resumed run skips nothing, and the number of processes or the micro-batch size cannot be seen in it.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Plan:
    """`total`: optimizer steps of the whole run."""

    rows: int
    batch_size: int
    epochs: float
    seed: int
    max_steps: int | None = None

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
        order = _order(self.rows, self.seed, epoch)
        return order[place * self.batch_size : (place + 1) * self.batch_size].tolist()

    def ends_epoch(self, step: int) -> bool:
        """Whether step `step` (from 0) is the last of its epoch, or of the run."""
        return (step + 1) % self.steps_per_epoch == 0 or step + 1 == self.total


@lru_cache(maxsize=2)
def _order(rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed % 2**64, epoch]).permutation(rows)
