"""What one sees of a run: a progress bar (lines where there is no terminal), the rows of plots/train.csv and plots/eval.csv,
and whatever else listens: Weights & Biases, TensorBoard.
"""

import csv
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

from axolotl_core.progress import clock
from axolotl_core.terminal import printable
from axolotl_core.training.step import Numbers

TRAIN_COLUMNS = ("step", "epoch", "loss", "learning_rate", "grad_norm", "tokens_per_s", "step_s", "memory_gib")
EVAL_COLUMNS = ("step", "eval_loss", "eval_perplexity", "eval_accuracy")
LINE_EVERY_S = 10.0
HELD_OUT = "held_out"
"""Key of a row of the log with all that an evaluation measured, by data set too; for evaluate, in no table."""


class Listener(Protocol):
    """Where the rows of the log go besides."""

    def log(self, row: dict[str, Any]) -> None: ...

    def table(self, step: int, rows: Sequence[dict[str, Any]]) -> None: ...

    def saved(self, step: int, folder: Path) -> None: ...

    def ended(self, out: Path) -> None: ...

    def close(self) -> None: ...


class Tracker:
    """Collects a row of the log for the first step and every `logging_steps`, and shows loss, learning rate, tokens/s and time left.

    watch: a step whose loss is above this has a row too, so that a resumed run knows of it; quiet: a process that only trains along.
    """

    def __init__(
        self,
        total: int,
        done: int,
        log: list[dict[str, Any]],
        logging_steps: int,
        listeners: Sequence[Listener] = (),
        *,
        watch: float | None = None,
        quiet: bool = False,
    ) -> None:
        self.log, self.total, self.logging_steps, self.listeners, self.quiet = log, total, logging_steps, listeners, quiet
        self.watch = watch
        self.first, self.started = done, time.monotonic()
        self.last_line = self.last_step = self.started
        self.speeds: list[float] = []
        self.bar = tqdm(total=total, initial=done, unit="step", disable=quiet or not sys.stderr.isatty(), dynamic_ncols=True)

    def step(self, step: int, epoch: float, numbers: Numbers, learning_rate: float) -> None:
        """After optimizer step `step` (from 1)."""
        now = time.monotonic()
        seconds, self.last_step = max(1e-9, now - self.last_step), now
        speed = numbers.tokens / seconds
        self.speeds.append(speed)
        if step % self.logging_steps == 0 or step in (1, self.total) or (self.watch is not None and numbers.loss > self.watch):
            row = {"step": step, "epoch": round(epoch, 4), "loss": numbers.loss, "learning_rate": learning_rate}
            row |= {"grad_norm": numbers.grad_norm, "tokens_per_s": round(speed, 1), "step_s": round(seconds, 4)}
            self._add(row | {"memory_gib": round(peak_memory() / 2**30, 3)})
        self.bar.set_postfix(loss=f"{numbers.loss:.3f}", lr=f"{learning_rate:.1e}", tokens_s=f"{speed:.0f}", refresh=False)
        self.bar.update()
        if self.bar.disable and (now - self.last_line >= LINE_EVERY_S or step == self.total):
            self.last_line = now
            left = (now - self.started) / max(1, step - self.first) * (self.total - step)
            line = f"step {step}/{self.total}  loss {numbers.loss:.3f}  lr {learning_rate:.1e}  {speed:,.0f} tokens/s"
            self.say(f"{line}  {clock(left)} left")

    def evaluated(self, step: int, found: dict[str, Any]) -> None:
        """The held-out numbers after `step`, as `measure` gives them; 0 is before training."""
        row = {"step": step, **{f"eval_{name}": found[name] for name in ("loss", "perplexity", "accuracy")}}
        self._add(row | {HELD_OUT: found})
        self.say(f"step {step}/{self.total}  held-out loss {found['loss']:.4f}")
        self.pause()

    def pause(self) -> None:
        """What went on since the last step, an evaluation or a checkpoint, is no training time."""
        self.last_step = time.monotonic()

    def say(self, told: str) -> None:
        if not self.quiet:
            tqdm.write(f"  {printable(told)}", file=sys.stderr if not self.bar.disable else sys.stdout)
            sys.stdout.flush()

    @property
    def tokens_per_s(self) -> float:
        """Median over the steps of this process, tokens of the training rows."""
        return round(sorted(self.speeds)[len(self.speeds) // 2], 1) if self.speeds else 0.0

    def close(self) -> None:
        self.bar.close()

    def _add(self, row: dict[str, Any]) -> None:
        self.log.append(row)
        for listener in self.listeners:
            listener.log({name: value for name, value in row.items() if name != HELD_OUT})


def peak_memory() -> int:
    """Bytes: the most that was allocated on the GPU, or that this process took of the machine's memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def write_csv(path: Path, log: list[dict[str, Any]], columns: Sequence[str]) -> None:
    """The rows of the log with one of these columns besides the step, as `dvc plots` draws them.

    What else such a row has gets a column behind these; what it lacks is an empty cell.
    """
    rows = [row for row in log if row.keys() & set(columns) - {"step"}]
    others = sorted({name for row in rows for name in row} - {*columns, HELD_OUT})
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, (*columns, *others), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
