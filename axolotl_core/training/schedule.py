"""Learning-rate schedules: pure functions (step, total, warmup) → factor of the peak. Steps count from 0."""

import math
from collections.abc import Callable

from axolotl_core.errors import ParamsError
from axolotl_core.params.training import Training

WARMUP_SHARE, WARMUP_MOST = 0.03, 100


def cosine(step: int, total: int, warmup: int) -> float:
    """Linear up to 1 at `warmup`, then ½ (1 + cos π p) down to 0 at `total`."""
    if step < warmup:
        return step / max(1, warmup)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))))


def constant(step: int, total: int, warmup: int) -> float:
    """Linear up to 1 at `warmup`, then 1."""
    return step / max(1, warmup) if step < warmup else 1.0


SCHEDULES: dict[str, Callable[[int, int, int], float]] = {"cosine": cosine, "constant": constant}


def warmup_steps(training: Training, total: int) -> int:
    """Steps of warmup: as asked, as a share, or 3 % of the run but 100 at most. Raises ParamsError when it is longer than the run."""
    if training.warmup_steps is not None:
        if training.warmup_steps >= total:
            raise ParamsError(
                f"training.warmup_steps is {training.warmup_steps} but the run has {total} steps; lower it, or raise num_epochs"
            )
        return training.warmup_steps
    if training.warmup_ratio is not None:
        return math.ceil(training.warmup_ratio * total)
    return min(int(WARMUP_SHARE * total), WARMUP_MOST)
