"""One optimizer step.

    loss = Σ over micro-batches and processes of the summed cross-entropy ÷ trained tokens of all rows of the step

The divisor is counted before the first forward pass, on the CPU, from all rows of the step: so micro-batches and
processes may cut them anyhow, and nobody has to ask the others. Nothing here waits for the device: what is reported
comes as a copy on its way.

What is drawn (dropout, noise) is a function of the seed, the step and the micro-batch's place in it.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from axolotl_core.errors import TrainError
from axolotl_core.training.batches import RowSource
from axolotl_core.training.parallel import Parallel
from axolotl_core.training.plan import shares


class Numbers(NamedTuple):
    """Over all processes: loss in nats a trained token, gradient norm before clipping, tokens with and without a label,
    padding too, and whether a process was asked to stop."""

    loss: float
    grad_norm: float
    tokens: int
    stop: bool


@dataclass(frozen=True)
class Report:
    """A step's numbers on their way from the device."""

    step: int
    sent: Tensor
    arrived: "torch.cuda.Event | None"
    scaled: bool

    def arrive(self) -> "Numbers":
        """Raises TrainError when the loss or the norm is not finite; with a loss scaler a norm that is not is a skipped step."""
        if self.arrived is not None:
            self.arrived.synchronize()
        loss, tokens, stop, norm = self.sent.tolist()
        for name, value in (("loss", loss), *((("gradient norm", norm),) if not self.scaled else ())):
            if not math.isfinite(value):
                raise TrainError(
                    f"step {self.step}: the {name} is {value}; lower learning_rate, or look at the rows of this step; "
                    "checkpoints written so far are of steps before it"
                )
        return Numbers(loss, norm, int(tokens), stop > 0)


def train_step(
    parallel: Parallel,
    source: RowSource,
    rows: Sequence[int],
    *,
    step: int,
    seed: int,
    micro_batch_size: int,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Forward, backward, clip, update on the rows of these numbers. `step` counts from 1.

    stop: asked after the passes whether this process was asked to end.
    """
    trained = source.targets(rows)
    total = torch.zeros((), device=parallel.device)
    turns = shares(rows, micro_batch_size, parallel.rank, parallel.world)
    tokens = 0
    for micro in turns:
        batch = source.batch(micro.rows or rows[:1])
        inputs = batch.place(parallel.device)
        if not micro.rows:
            inputs = inputs.untrained()
        else:
            tokens += batch.ids_BT.numel()
        seed_everything(seed, step, micro.number)
        with parallel.pass_of(last=micro is turns[-1]):
            loss = parallel.objective(inputs) / max(1, trained)
            parallel.backward(loss)
        total += loss.detach()
    norm = parallel.step()
    told = torch.tensor([float(tokens), float(stop())], device=parallel.device)
    sent, arrived = _send(torch.cat([parallel.sum(torch.cat([total[None], told])), norm[None]]))
    return Report(step, sent, arrived, parallel.scaler is not None)


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
