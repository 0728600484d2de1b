"""One optimizer step.

    loss = Σ over micro-batches and processes of the summed cross-entropy ÷ target tokens of all rows of the step

The divisor is counted before the first forward pass, on the CPU, from all rows of the step: so micro-batches and
processes may cut them anyhow, and nobody has to ask the others. Nothing here waits for the device: what is reported
comes as a copy on its way.

What is drawn (dropout, noise) is a function of the seed, the step and the micro-batch's place in it.
"""

import math
import random
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
        return StepMetrics(loss, norm, self.target_tokens, int(tokens), int(padding), stop > 0)


def train_step(
    strategy: Strategy,
    source: RowSource,
    rows: Sequence[int],
    *,
    step: int,
    seed: int,
    micro_batch_size: int,
    learning_rate: float = 0.0,
    stop: Callable[[], bool] = lambda: False,
) -> PendingMetrics:
    """Forward, backward, clip, update on the rows of these numbers. `step` counts from 1.

    learning_rate: of this step, as the optimizer has it, for the log; stop: called after the passes, whether this process is to end.
    """
    targets = source.targets(rows)
    total = torch.zeros((), device=strategy.device)
    micro_batches = micro_batches_of_rank(rows, micro_batch_size, strategy.rank, strategy.ranks)
    tokens = padding = 0
    for micro in micro_batches:
        batch = source.batch(micro.rows or rows[:1])
        inputs = batch.place(strategy.device)
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
    norm = strategy.step()
    counts = place(torch.tensor([float(tokens), float(padding), float(stop())]), strategy.device)
    sent, on_device = _send(torch.cat([strategy.sum(torch.cat([total[None], counts])), norm[None]]))
    return PendingMetrics(step, learning_rate, sent, on_device, strategy.scaler is not None, targets)


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
