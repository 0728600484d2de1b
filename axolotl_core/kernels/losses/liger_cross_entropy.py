"""Liger's cross-entropy on a chunk of logits, which it writes the gradient into."""

from typing import Any

from torch import Tensor

from axolotl_core.attention.need import Need
from axolotl_core.kernels.chunked import chunked
from axolotl_core.kernels.triton import lacks

OPTIONS = ("liger_cross_entropy",)


def fits(need: Need) -> str | None:
    """Where triton and liger-kernel are."""
    return lacks(need.device, "liger_kernel", "kernels")


def loss_sum(states_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, labels_N: Tensor) -> Tensor:
    """Σ cross-entropy of h Wᵀ + b."""
    from liger_kernel.ops.cross_entropy import LigerCrossEntropyFunction

    def of_chunk(logits_CV: Tensor, labels_C: Tensor) -> Tensor:
        found: Any = LigerCrossEntropyFunction.apply(logits_CV, labels_C, None, -100, 0.0, 0.0, "sum")
        loss: Tensor = found[0] if isinstance(found, tuple) else found
        return loss

    return chunked(of_chunk, states_NH, weight_VH, bias_V, labels_N)
