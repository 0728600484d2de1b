"""When a run ends before its last step: no better evaluation for a while, or a loss that stays high.

Both are read from the log, which a checkpoint holds, so a resumed run stops where the run left alone does.
"""

from typing import Any

from axolotl_core.checkpoints.best import best_step, metric_of
from axolotl_core.params.training import Training


def is_over(log: list[dict[str, Any]], training: Training, since: int = 0) -> bool:
    """Whether, after step `since`, the last `early_stopping_patience` evaluations were none better than the best before them."""
    patience, best = training.early_stopping_patience, best_step(log, training, since)
    if patience is None or best is None:
        return False
    column, _ = metric_of(training)
    return sum(row["step"] > best for row in log if row.get(column) is not None) >= patience


def is_diverged(log: list[dict[str, Any]], step: int, training: Training) -> bool:
    """Whether the losses of the last `loss_watchdog_patience` steps up to `step` are all above loss_watchdog_threshold.

    Each step of such a loss has a row in the log.
    """
    threshold = training.loss_watchdog_threshold
    if threshold is None:
        return False
    last = range(step - training.loss_watchdog_patience + 1, step + 1)
    high = {row["step"] for row in log[-2 * len(last) - 2 :] if row.get("loss", 0) > threshold}
    return high.issuperset(last)
