"""What one sees of a run: a progress bar (lines where there is no terminal), the rows of plots/train.csv and plots/eval.csv,
and the loggers: Weights & Biases, TensorBoard.
"""

import resource
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from axolotl_core.progress import clock
from axolotl_core.terminal import printable
from axolotl_core.tracking.logger import Logger

LINE_EVERY_S = 10.0
PARTS = ("data", "forward_backward", "optimizer", "checkpoint")
"""What the time of a step goes to."""
VALIDATION = "held_out"
"""Key of a row of the log with all that an evaluation measured, by dataset too; for evaluate, in no table."""


class StepMetrics(NamedTuple):
    """Over all processes: loss in nats per target token, gradient norm before clipping, tokens with a label and all of them, without
    padding, what was padded, whether a process was told to stop, floating-point operations; of this process: seconds for making
    batches, for the passes and for the update."""

    loss: float
    grad_norm: float
    target_tokens: int
    tokens: int
    padding: int
    stop: bool
    flops: float = 0.0
    data_s: float = 0.0
    forward_backward_s: float = 0.0
    optimizer_s: float = 0.0


class Tracker:
    """Collects a row of the log for the first step and every `logging_steps`, and shows loss, learning rate, tokens/s and time left.

    watch: a step whose loss is above this has a row too, so that a resumed run knows of it; quiet: a process that only trains along;
    peak_flops: floating-point operations that all devices together can make in a second, 0 where nobody knows.
    """

    def __init__(
        self,
        total: int,
        done: int,
        log: list[dict[str, Any]],
        logging_steps: int,
        loggers: Sequence[Logger] = (),
        *,
        watch: float | None = None,
        quiet: bool = False,
        peak_flops: float = 0.0,
    ) -> None:
        self.log, self.total, self.logging_steps, self.loggers, self.quiet = log, total, logging_steps, loggers, quiet
        self.watch, self.peak_flops = watch, peak_flops
        self.first, self.started = done, time.monotonic()
        self.last_line = self.last_step = self.started
        self.speeds: list[tuple[float, float]] = []
        self.tokens = self.padding = 0
        self.flops = self.seconds = self.saving_s = 0.0
        self.parts = dict.fromkeys(PARTS, 0.0)
        self.bar = tqdm(total=total, initial=done, unit="step", disable=quiet or not sys.stderr.isatty(), dynamic_ncols=True)

    def step(self, step: int, epoch: float, metrics: StepMetrics, learning_rate: float) -> None:
        """After optimizer step `step` (from 1)."""
        now = time.monotonic()
        seconds, self.last_step = max(1e-9, now - self.last_step), now
        speed = metrics.tokens / seconds
        self.speeds.append((speed, metrics.target_tokens / seconds))
        self.tokens += metrics.tokens
        self.padding += metrics.padding
        self.flops += metrics.flops
        self.seconds += seconds
        taken = dict(zip(PARTS, (metrics.data_s, metrics.forward_backward_s, metrics.optimizer_s, self.saving_s), strict=True))
        self.parts = {part: self.parts[part] + taken[part] for part in PARTS}
        mfu = self._mfu(metrics.flops, seconds)
        if step % self.logging_steps == 0 or step in (1, self.total) or (self.watch is not None and metrics.loss > self.watch):
            row = {"step": step, "epoch": round(epoch, 4), "loss": metrics.loss, "learning_rate": learning_rate}
            row |= {"grad_norm": metrics.grad_norm, "tokens_per_s": round(speed, 1), "step_s": round(seconds, 4)}
            row |= {"target_tokens_per_s": round(metrics.target_tokens / seconds, 1)}
            row |= {"padding": _share(metrics.padding, metrics.tokens), "mfu": mfu}
            row |= {f"{part}_s": round(value, 4) for part, value in taken.items()}
            self._add(row | {"memory_gib": round(peak_memory() / 2**30, 3)})
        self.saving_s = 0.0
        shown = {"loss": f"{metrics.loss:.3f}", "lr": f"{learning_rate:.1e}", "tokens_s": f"{speed:.0f}"}
        self.bar.set_postfix(shown | ({"mfu": f"{mfu:.0%}"} if mfu else {}), refresh=False)
        self.bar.update()
        if self.bar.disable and (now - self.last_line >= LINE_EVERY_S or step == self.total):
            self.last_line = now
            left = (now - self.started) / max(1, step - self.first) * (self.total - step)
            line = f"step {step}/{self.total}  loss {metrics.loss:.3f}  lr {learning_rate:.1e}  {speed:,.0f} tokens/s"
            self.print(f"{line}{f'  {mfu:.0%} MFU' if mfu else ''}  {clock(left)} left")

    def evaluated(self, step: int, found: dict[str, Any]) -> None:
        """The metrics of the validation rows after `step`, as `evaluate` gives them; 0 is before training."""
        row = {"step": step, **{f"eval_{name}": found[name] for name in ("loss", "perplexity", "accuracy")}}
        self._add(row | {VALIDATION: found})
        self.print(f"step {step}/{self.total}  eval_loss {found['loss']:.4f}")
        self.pause()

    def saved(self, seconds: float) -> None:
        """Training stood still so long for a checkpoint."""
        self.saving_s += seconds
        self.pause()

    def pause(self) -> None:
        """What went on since the last step, an evaluation or a checkpoint, is no training time."""
        self.last_step = time.monotonic()

    def print(self, line: str) -> None:
        if not self.quiet:
            tqdm.write(f"  {printable(line)}", file=sys.stderr if not self.bar.disable else sys.stdout)
            sys.stdout.flush()

    def throughput(self) -> dict[str, float]:
        """Medians over the steps that were taken here, in tokens of training rows without padding, all and those with a label; the
        share of what the model ran on that was padding; over all steps, operations per second and their share of what the devices can
        make; seconds by what they went to."""
        tokens, targets = (sorted(speeds)[len(speeds) // 2] for speeds in zip(*self.speeds or [(0.0, 0.0)], strict=True))
        found = {"tokens_per_s": round(tokens, 1), "target_tokens_per_s": round(targets, 1), "padding": _share(self.padding, self.tokens)}
        found |= {"tflops": round(self.flops / max(1e-9, self.seconds) / 1e12, 4), "mfu": self._mfu(self.flops, self.seconds)}
        self.parts["checkpoint"] += self.saving_s  # after the last step
        return found | {f"{part}_s": round(value, 3) for part, value in self.parts.items()}

    def _mfu(self, flops: float, seconds: float) -> float:
        """Model FLOPs utilisation: 1 is all that the devices can make."""
        return round(flops / max(1e-9, seconds) / self.peak_flops, 4) if self.peak_flops else 0.0

    def close(self) -> None:
        self.bar.close()

    def _add(self, row: dict[str, Any]) -> None:
        self.log.append(row)
        for logger in self.loggers:
            logger.log({name: value for name, value in row.items() if name != VALIDATION})


def _share(padding: int, tokens: int) -> float:
    return round(padding / max(1, tokens + padding), 4)


def peak_memory() -> int:
    """Bytes: the most that was allocated on the GPU, or that this process took of the machine's memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
