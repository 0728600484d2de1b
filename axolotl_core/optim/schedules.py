"""Learning-rate schedules: pure functions step → factor of the peak. Steps count from 0.

The names of Hugging Face are transformers' own functions; one_cycle, log_sweep and the quadratic warmup are Axolotl's.
ReLoRA bends any of them: after each merge the factor climbs anew.

    relora_steps 4, warmup 2      step    0 1 2 3   4      5    6 7   8      9
                                  factor  1 1 1 1   0.001  0.5  1 1   0.001  0.5   (of the schedule's)
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from transformers import get_scheduler

from axolotl_core.errors import ParamsError
from axolotl_core.params.adapter import Adapter
from axolotl_core.params.training import UNWARMED, Training

WARMUP_SHARE, WARMUP_MOST = 0.03, 100
RELORA_LEAST = 0.001


class Schedule(NamedTuple):
    """factor: step → share of training.learning_rate; momentum: step → Adam's first beta, or None where it stays."""

    factor: Callable[[int], float]
    momentum: Callable[[int], float] | None = None


def make_schedule(training: Training, adapter: Adapter, total: int) -> Schedule:
    """The schedule of a run of `total` steps. Raises ParamsError: a warmup or arguments that do not fit."""
    schedule = _plain(training, total, warmup_steps(training, total))
    if adapter.relora_steps is None:
        return schedule
    every, warmup, inner = adapter.relora_steps, adapter.relora_warmup_steps, schedule.factor
    return Schedule(lambda step: inner(step) * relora_scale(step, every, warmup), schedule.momentum)


def _plain(training: Training, total: int, warmup: int) -> Schedule:
    arguments = training.lr_scheduler_kwargs
    try:
        match training.lr_scheduler:
            case "one_cycle":
                return one_cycle(total, warmup, training.lr_div_factor or 6.0, **arguments)
            case "log_sweep":
                ends = (training.log_sweep_min_lr, training.log_sweep_max_lr)  # params/training.py requires both
                least, most = (end / training.learning_rate for end in ends if end is not None)
                return Schedule(lambda step: log_sweep(step, total, least, most))
            case "cosine" if training.lr_quadratic_warmup:
                return Schedule(lambda step: cosine_quadratic_warmup(step, total, warmup))
        weightless = torch.optim.SGD([torch.zeros(1)], training.learning_rate)
        library = get_scheduler(training.lr_scheduler, weightless, warmup, total, arguments or None)
        return Schedule(library.lr_lambdas[0])
    except (TypeError, ValueError) as error:
        raise ParamsError(f"training.lr_scheduler_kwargs: do not fit lr_scheduler '{training.lr_scheduler}': {error}") from None


def cosine_quadratic_warmup(step: int, total: int, warmup: int) -> float:
    """(step / warmup)² up to 1, then ½ (1 + cos π p) down to 0 at `total`."""
    if step < warmup:
        return (step / max(1, warmup)) ** 2
    return max(0.0, 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))))


def log_sweep(step: int, total: int, least: float, most: float) -> float:
    """From `least` to `most` by equal factors, `most` at the last step: the range test of Smith 2017 (arXiv 1506.01186)."""
    return least * (most / least) ** (min(step, total - 1) / max(1, total - 1))


def one_cycle(
    total: int,
    warmup: int,
    div_factor: float,
    *,
    final_div_factor: float = 1e4,
    cycle_momentum: bool = True,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
) -> Schedule:
    """torch's OneCycleLR (Smith & Topin 2018, arXiv 1708.07120) with the peak at step warmup - 1.

    1 / div_factor up to 1 and down to 1 / div_factor / final_div_factor by cosines; the momentum goes the other way.
    """
    top, start = max(warmup - 1, 0), 1 / div_factor
    fall = max(1, total - 1 - top)

    def factor(step: int) -> float:
        if step < top:
            return _cosine_between(start, 1.0, step / top)
        return _cosine_between(1.0, start / final_div_factor, min(1.0, (step - top) / fall))

    def momentum(step: int) -> float:
        if step < top:
            return _cosine_between(max_momentum, base_momentum, step / top)
        return _cosine_between(base_momentum, max_momentum, min(1.0, (step - top) / fall))

    return Schedule(factor, momentum if cycle_momentum else None)


def _cosine_between(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def relora_scale(step: int, every: int, warmup: int) -> float:
    """1 up to the first merge, which comes before step `every`; from 0.001 linearly to 1 in `warmup` steps after each."""
    if step < every:
        return 1.0
    return min(1.0, step % every / max(1, warmup)) * (1 - RELORA_LEAST) + RELORA_LEAST


def warmup_steps(training: Training, total: int) -> int:
    """Steps of warmup: as asked, as a share, or 3 % of the run but 100 at most. A run that is no longer than that ends warming up."""
    if training.lr_scheduler in UNWARMED:
        return 0
    share = training.warmup_ratio
    if isinstance(training.warmup_steps, int):
        return training.warmup_steps
    share = training.warmup_steps if share is None else share
    if share is not None:
        return math.ceil(share * total)
    return min(int(WARMUP_SHARE * total), WARMUP_MOST)
