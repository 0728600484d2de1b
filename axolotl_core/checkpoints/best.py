"""The best evaluation of a run, read from its log, which each checkpoint holds."""

from pathlib import Path
from typing import Any

from axolotl_core.checkpoints.format import damaged
from axolotl_core.checkpoints.store import BEST, state_of
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


def best_step(log: list[dict[str, Any]], training: Training, since: int = 0) -> int | None:
    """Step of the best evaluation after step `since`, where training (or this branch of one) began; the first of equals."""
    column, higher = metric_of(training)
    found = [(row[column], row["step"]) for row in log if row.get(column) is not None and row["step"] > since]
    if not found:
        return None
    best = max(value for value, _ in found) if higher else min(value for value, _ in found)
    return next(step for value, step in found if value == best)


def missing_best(run: Path, step: int) -> str | None:
    """What is wrong with `best-<step>/` as the weights of that step, or None."""
    folder = run / f"{BEST}-{step}"
    if bad := damaged(folder):
        return f"the weights of the best evaluation, step {step}, are missing: {bad}"
    if (has := state_of(folder)["step"]) != step:
        return f"the weights of the best evaluation are those of step {has}, wanted step {step}"
    return None
