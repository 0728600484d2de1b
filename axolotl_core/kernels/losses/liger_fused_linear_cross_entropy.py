"""Liger's output layer and cross-entropy in one: logits a chunk at a time, the gradient made in the forward pass."""

from typing import Any

import torch
from torch import Tensor

from axolotl_core.attention.need import Need
from axolotl_core.kernels.triton import lacks

OPTIONS = ("liger_fused_linear_cross_entropy",)


def fits(need: Need) -> str | None:
    """Where triton and liger-kernel are."""
    return lacks(need.device, "liger_kernel", "kernels")


def loss_sum(states_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, labels_N: Tensor) -> Tensor:
    """Σ cross-entropy of h Wᵀ + b."""
    from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

    options = (None, -100, 0.0, 0.0, "sum", None, False, torch.float32)  # the last: what the weight's gradient is added up in
    found: Any = LigerFusedLinearCrossEntropyFunction.apply(states_NH, weight_VH, labels_N, bias_V, *options)
    loss: Tensor = found[0] if isinstance(found, tuple) else found
    return loss
