"""What one sees of a run: a progress bar (lines where there is no terminal) and the rows of plots/train.csv and plots/eval.csv."""

import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from axolotl_core.training.step import Report

TRAIN_COLUMNS = ("step", "epoch", "loss", "learning_rate", "grad_norm", "tokens_per_s")
EVAL_COLUMNS = ("step", "eval_loss")
LINE_EVERY_S = 10.0


class Tracker:
    """Collects a row of the log every `logging_steps` and shows loss, learning rate, tokens/s and time left."""

    def __init__(self, total: int, done: int, log: list[dict[str, Any]], logging_steps: int) -> None:
        self.log, self.total, self.logging_steps = log, total, logging_steps
        self.first, self.started = done, time.monotonic()
        self.last_line = self.last_step = self.started
        self.tokens = 0
        self.bar = tqdm(total=total, initial=done, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def step(self, step: int, epoch: float, report: Report, learning_rate: float) -> None:
        """After optimizer step `step` (from 1)."""
        now = time.monotonic()
        speed, self.last_step = report.tokens / max(1e-9, now - self.last_step), now
        self.tokens += report.tokens
        if step % self.logging_steps == 0 or step == self.total:
            row = {"step": step, "epoch": round(epoch, 4), "loss": report.loss, "learning_rate": learning_rate}
            self.log.append(row | {"grad_norm": report.grad_norm, "tokens_per_s": round(speed, 1)})
        self.bar.set_postfix(loss=f"{report.loss:.3f}", lr=f"{learning_rate:.1e}", tokens_s=f"{speed:.0f}", refresh=False)
        self.bar.update()
        if self.bar.disable and (now - self.last_line >= LINE_EVERY_S or step == self.total):
            self.last_line = now
            left = (now - self.started) / max(1, step - self.first) * (self.total - step)
            line = f"step {step}/{self.total}  loss {report.loss:.3f}  lr {learning_rate:.1e}  {speed:,.0f} tokens/s"
            print(f"  {line}  {_clock(left)} left", flush=True)

    def evaluated(self, step: int, eval_loss: float) -> None:
        """The held-out loss after `step`; 0 is before training."""
        self.log.append({"step": step, "eval_loss": eval_loss})
        self.say(f"step {step}/{self.total}  held-out loss {eval_loss:.4f}")
        self.last_step = time.monotonic()  # evaluation is no training time

    def say(self, told: str) -> None:
        tqdm.write(f"  {told}", file=sys.stderr if not self.bar.disable else sys.stdout)

    @property
    def tokens_per_s(self) -> float:
        """Tokens of the training rows a second, over the steps of this process."""
        speeds = sorted(row["tokens_per_s"] for row in self.log if "tokens_per_s" in row)
        return speeds[len(speeds) // 2] if speeds else 0.0

    def close(self) -> None:
        self.bar.close()


def write_csv(path: Path, log: list[dict[str, Any]], columns: Sequence[str]) -> None:
    """The rows of the log that have these columns, as `dvc plots` draws them."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row in log if row.keys() == set(columns))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"
