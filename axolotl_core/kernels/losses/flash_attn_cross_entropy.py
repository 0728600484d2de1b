"""flash-attn's cross-entropy, in triton, on a chunk of logits. Its source was compared in triton's interpreter; the package itself is
imported on a GPU alone.
"""

from torch import Tensor

from axolotl_core.attention.need import Need
from axolotl_core.kernels.chunked import chunked
from axolotl_core.kernels.triton import lacks

OPTIONS = ("flash_attn_cross_entropy",)


def fits(need: Need) -> str | None:
    """Where flash-attn is."""
    return lacks(need.device, "flash_attn", "flash-attn")


def loss_sum(states_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, labels_N: Tensor) -> Tensor:
    """Σ cross-entropy of h Wᵀ + b."""
    from flash_attn.ops.triton.cross_entropy import cross_entropy_loss

    def of_chunk(logits_CV: Tensor, labels_C: Tensor) -> Tensor:
        losses_C: Tensor = cross_entropy_loss(logits_CV, labels_C, inplace_backward=True)[0]
        return losses_C.sum()

    return chunked(of_chunk, states_NH, weight_VH, bias_V, labels_N)
