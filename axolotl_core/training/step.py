"""One optimizer step.

    loss = Σ over micro-batches of the summed cross-entropy ÷ trained tokens over all micro-batches

The divisor is counted before the first forward pass, on the CPU, so micro-batches may be cut anyhow.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator

from axolotl_core.errors import TrainError
from axolotl_core.training.batches import Batch
from axolotl_core.training.loss import loss_sum


class Report(NamedTuple):
    """loss in nats a trained token; gradient norm before clipping; tokens with and without a label."""

    loss: float
    grad_norm: float
    tokens: int
    trained_tokens: int


def train_step(
    model: Any,
    micro_batches: Sequence[Batch],
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    *,
    step: int,
    how: str,
    max_grad_norm: float,
) -> Report:
    """Forward, backward, clip, update. `step` counts from 1 and is for the message.

    Raises TrainError, before the weights are touched, when the loss or the gradient is not finite.
    """
    trained = sum(batch.targets for batch in micro_batches)
    total = torch.zeros((), device=accelerator.device)
    for batch in micro_batches:
        if batch.targets:
            loss = loss_sum(model, batch.to(accelerator.device), how) / trained
            accelerator.backward(loss)
            total += loss.detach()
    grad_norm = accelerator.clip_grad_norm_(model.parameters(), max_grad_norm or math.inf)
    norm = float(grad_norm) if grad_norm is not None else 0.0
    loss_value = float(total)
    for name, value in (("loss", loss_value), ("gradient norm", norm)):
        if not math.isfinite(value):
            raise TrainError(
                f"step {step}: the {name} is {value}; the weights are as after step {step - 1}; "
                "lower learning_rate, or look at the rows of this step"
            )
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return Report(loss_value, norm, sum(batch.ids_BT.numel() for batch in micro_batches), trained)
