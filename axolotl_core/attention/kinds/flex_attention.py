"""torch's flex attention: a mask of blocks, which transformers makes from the positions, once a batch. On a GPU only: it has no backward
pass on a CPU.
"""

from typing import Any

from axolotl_core.attention.laid import Laid
from axolotl_core.attention.need import Need

OPTION = "flex_attention"
PREFERENCE = 30
OPERATORS: tuple[str, ...] = ("flex_attention",)


def fits(need: Need) -> str | None:
    """On a GPU that triton compiles for; soft caps, windows and sinks too."""
    if need.device.type != "cuda":
        return f"it has no backward pass on {need.device.type}"
    if not getattr(need.model_class, "_supports_flex_attn", False) or not need.by_interface:
        return f"{need.model_class.__name__} has no flex attention"
    if need.capability < (8, 0):
        return "it wants a GPU of compute capability 8.0 or newer"
    return "it has no dropout of attention weights" if need.dropout else None


def inputs(laid: Laid) -> dict[str, Any]:
    """As eager, a mask of blocks."""
    return laid.mask_kwargs()
