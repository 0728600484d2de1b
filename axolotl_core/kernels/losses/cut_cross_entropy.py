"""Cut cross-entropy (Wijmans et al. 2024, arXiv 2411.09009): the logits are never in memory, not even a chunk of them."""

import torch
from torch import Tensor
from torch.nn import functional

from axolotl_core.attention.need import Need
from axolotl_core.kernels.triton import lacks

OPTIONS = ("cut_cross_entropy",)
FROZEN_ONLY = "it adds up the gradient of the output layer in 16 bits, and that layer is trained"
"""Why it is not taken where the output layer is trained."""


def fits(need: Need) -> str | None:
    """Where triton and cut-cross-entropy are, in 16 bits."""
    if need.dtype.itemsize != 2:
        return f"it runs in 16 bits, not in {str(need.dtype).removeprefix('torch.')}; set training.bf16: true"
    return lacks(need.device, "cut_cross_entropy", "kernels")


def loss_sum(states_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, labels_N: Tensor) -> Tensor:
    """Σ cross-entropy of h Wᵀ + b, gradients below rounding left in: by default the library leaves them out."""
    from cut_cross_entropy import linear_cross_entropy

    if bias_V is not None:  # h Wᵀ + b = (h, 1) (W, b)ᵀ
        states_NH, weight_VH = functional.pad(states_NH, [0, 1], value=1.0), torch.cat([weight_VH, bias_V[:, None]], 1)
    loss: Tensor = linear_cross_entropy(states_NH, weight_VH, labels_N, reduction="sum", filter_eps=None, impl="cce")
    return loss
