"""When a run ends before its last step: no better evaluation for a while, or a signal.

All of it is read from the log, which a checkpoint holds, so a resumed run stops where the run left alone does.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from axolotl_core.params.training import Training

HIGHER_IS_BETTER = {"loss": False, "perplexity": False, "accuracy": True}


def metric_of(training: Training) -> tuple[str, bool]:
    """Column of the log that says what is best, and whether more of it is better."""
    name = (training.metric_for_best_model or "loss").removeprefix("eval_")
    higher = HIGHER_IS_BETTER[name] if training.greater_is_better is None else training.greater_is_better
    return f"eval_{name}", higher


def keeps_best(training: Training) -> bool:
    """load_best_model_at_end; unset: with early stopping."""
    if training.load_best_model_at_end is None:
        return training.early_stopping_patience is not None
    return training.load_best_model_at_end


def wants_validation(training: Training) -> str | None:
    """The option that is nothing without held-out rows, if one is set."""
    return next((option for option in ("early_stopping_patience", "load_best_model_at_end") if getattr(training, option)), None)


def best_step(log: list[dict[str, Any]], training: Training, since: int = 0) -> int | None:
    """Step of the best evaluation after step `since`, where training (or this branch of one) began; the first of equals."""
    column, higher = metric_of(training)
    found = [(row[column], row["step"]) for row in log if row.get(column) is not None and row["step"] > since]
    if not found:
        return None
    best = max(value for value, _ in found) if higher else min(value for value, _ in found)
    return next(step for value, step in found if value == best)


def is_over(log: list[dict[str, Any]], training: Training, since: int = 0) -> bool:
    """Whether, after step `since`, the last `early_stopping_patience` evaluations were none better than the best before them."""
    patience, best = training.early_stopping_patience, best_step(log, training, since)
    if patience is None or best is None:
        return False
    column, _ = metric_of(training)
    return sum(row["step"] > best for row in log if row.get(column) is not None) >= patience


def is_lost(log: list[dict[str, Any]], step: int, training: Training) -> bool:
    """Whether the losses of the last `loss_watchdog_patience` steps up to `step` are all above loss_watchdog_threshold.

    Each step of such a loss has a row in the log.
    """
    threshold = training.loss_watchdog_threshold
    if threshold is None:
        return False
    last = range(step - training.loss_watchdog_patience + 1, step + 1)
    high = {row["step"] for row in log[-2 * len(last) - 2 :] if row.get("loss", 0) > threshold}
    return high.issuperset(last)


SAME_PRESS_S = 1.0
"""A launcher passes on what the terminal has sent to its processes too: signals so close together are one."""


class Signals:
    """`caught`: the signal that asked the run to end, or None. The first is answered at once, a second SIGINT ends the run there.

    doing: what the run does now, "step (3 of 20)".
    """

    caught: int | None = None
    doing = "step"

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet, self.first = quiet, 0.0

    def __call__(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.caught is None:
            self.caught, self.first = number, now
            again = ", press again to stop now" if number == signal.SIGINT else ""
            if not self.quiet:  # straight to the file: whatever is interrupted may be writing itself
                os.write(2, f"\nstopping after this {self.doing}{again}\n".encode())
        elif number == signal.SIGINT and now - self.first > SAME_PRESS_S:
            raise KeyboardInterrupt

    @contextmanager
    def listening(self) -> Iterator["Signals"]:
        """SIGINT and SIGTERM are caught in this block, and handled as before after it."""
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
