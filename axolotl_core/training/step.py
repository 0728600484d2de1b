"""One optimizer step.

    loss = Σ over micro-batches and processes of the summed cross-entropy ÷ target tokens of all rows of the step

The divisor is counted before the first forward pass, on the CPU, from all rows of the step: so micro-batches and
processes may cut them anyhow, and nobody has to ask the others. Nothing here waits for the device: what is reported
comes as a copy on its way.

What is drawn (dropout, noise) is a function of the seed, the step and the micro-batch's place in it.
"""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from axolotl_core.attention.sequences import place
from axolotl_core.batches.plan import micro_batches_of_rank
from axolotl_core.batches.rows import RowSource
from axolotl_core.distributed.strategy import Strategy
from axolotl_core.errors import TrainError
from axolotl_core.models.flops import TrainingFlops
from axolotl_core.tracking.tracker import StepMetrics


@dataclass(frozen=True)
class PendingMetrics:
    """A step's metrics on their way from the device. on_device: signalled when they have arrived, None where they are here."""

    step: int
    learning_rate: float
    sent: Tensor
    on_device: "torch.cuda.Event | None"
    scaled: bool
    target_tokens: int
    flops: float
    data_s: float
    marks: "tuple[Mark, Mark, Mark]"
    """Before the first pass, after the last one, after the update."""

    def result(self) -> StepMetrics:
        """Raises TrainError when the loss or the norm is not finite; with a loss scaler a norm that is not is a skipped step."""
        if self.on_device is not None:
            self.on_device.synchronize()
        loss, tokens, padding, stop, norm = self.sent.tolist()
        for name, value in (("loss", loss), *((("gradient norm", norm),) if not self.scaled else ())):
            if not math.isfinite(value):
                raise TrainError(
                    f"step {self.step}: the {name} is {value}; lower learning_rate, or look at the rows of this step; "
                    "checkpoints written so far are of steps before it"
                )
        begin, passed, updated = self.marks
        forward_backward_s = _seconds(begin, passed) - (0.0 if self.on_device else self.data_s)  # a device computes while batches are made
        return StepMetrics(
            loss,
            norm,
            self.target_tokens,
            int(tokens),
            int(padding),
            stop > 0,
            self.flops,
            self.data_s,
            forward_backward_s,
            _seconds(passed, updated),
        )


def train_step(
    strategy: Strategy,
    source: RowSource,
    rows: Sequence[int],
    *,
    step: int,
    seed: int,
    micro_batch_size: int,
    learning_rate: float = 0.0,
    flops: TrainingFlops | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> PendingMetrics:
    """Forward, backward, clip, update on the rows of these numbers. `step` counts from 1.

    learning_rate: of this step, as the optimizer has it, and flops of the model, for the log; stop: called after the passes, whether
    this process is to end.
    """
    targets = source.targets(rows)
    total = torch.zeros((), device=strategy.device)
    micro_batches = micro_batches_of_rank(rows, micro_batch_size, strategy.rank, strategy.ranks)
    tokens = padding = 0
    data_s, begin = 0.0, _mark(strategy.device)
    for micro in micro_batches:
        started = time.perf_counter()
        batch = source.batch(micro.rows or rows[:1])
        inputs = batch.place(strategy.device)
        data_s += time.perf_counter() - started
        if not micro.rows:
            inputs = inputs.untrained()
        else:
            tokens += batch.tokens
            padding += batch.ids_BT.numel() - batch.tokens
        seed_everything(seed, step, micro.number)
        with strategy.micro_batch(last=micro is micro_batches[-1]):
            loss = strategy.objective(inputs) / max(1, targets)
            strategy.backward(loss)
        total += loss.detach()
    passed = _mark(strategy.device)
    norm = strategy.step()
    marks = (begin, passed, _mark(strategy.device))
    work = flops.of(source.sample_lengths(rows), targets) if flops else 0.0
    counts = place(torch.tensor([float(tokens), float(padding), float(stop())]), strategy.device)
    sent, on_device = _send(torch.cat([strategy.sum(torch.cat([total[None], counts])), norm[None]]))
    return PendingMetrics(step, learning_rate, sent, on_device, strategy.scaler is not None, targets, work, data_s, marks)


Mark = "torch.cuda.Event | float"
"""A moment of the device's own time, or of this process's in seconds."""


def _mark(device: torch.device) -> Mark:
    """Now, without waiting for what the device was given before."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds(begin: Mark, end: Mark) -> float:
    if isinstance(begin, torch.cuda.Event):
        return float(begin.elapsed_time(end)) / 1000
    return end - begin


def _send(values: Tensor) -> "tuple[Tensor, torch.cuda.Event | None]":
    """A copy to the CPU that is not waited for."""
    if values.device.type != "cuda":
        return values.cpu(), None
    sent = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    sent.copy_(values, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return sent, arrived


def seed_everything(*parts: int) -> None:
    """Seed python, numpy and torch from several numbers; 0 is a seed."""
    seed = int(np.random.SeedSequence([part % 2**64 for part in parts]).generate_state(1, np.uint64)[0])
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed % 2**63)
