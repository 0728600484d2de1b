"""plots/train.csv and plots/eval.csv, as `dvc plots` draws them."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from axolotl_core.tracking.tracker import VALIDATION

TRAIN_COLUMNS = (
    "step",
    "epoch",
    "loss",
    "learning_rate",
    "grad_norm",
    "tokens_per_s",
    "target_tokens_per_s",
    "padding",
    "mfu",
    "step_s",
    "data_s",
    "forward_backward_s",
    "optimizer_s",
    "checkpoint_s",
    "memory_gib",
)
EVAL_COLUMNS = ("step", "eval_loss", "eval_perplexity", "eval_accuracy")


def write_csv(path: Path, log: list[dict[str, Any]], columns: Sequence[str]) -> None:
    """The rows of the log with one of these columns besides the step, as `dvc plots` draws them.

    What else such a row has gets a column behind these; what it lacks is an empty cell.
    """
    rows = [row for row in log if row.keys() & set(columns) - {"step"}]
    others = sorted({name for row in rows for name in row} - {*columns, VALIDATION})
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, (*columns, *others), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
