"""Flash attention 3 (Shah et al. 2024, arXiv 2407.08608), of the package flash-attn-3 or, where
it is asked for, of the hub through `kernels`.
"""

from typing import Any

from axolotl_core.attention.flash import flash_inputs, lacks
from axolotl_core.attention.laid import Laid
from axolotl_core.attention.need import Need

OPTION = "flash_attention"
PREFERENCE = 60
OPERATORS: tuple[str, ...] = ("flash_attn",)


def fits(need: Need) -> str | None:
    """On Hopper in 16 bits, heads of up to 256; soft caps and windows, no dropout; sinks are left to others."""
    if reason := lacks(need, package="flash_attn_interface", least=(9, 0)):
        return reason
    if need.capability >= (10, 0):
        return "it is for GPUs of compute capability 9.0"
    return "it has no dropout of attention weights" if need.dropout else "it has no sinks" if need.sinks else None


def inputs(laid: Laid) -> dict[str, Any]:
    """Ends of the samples."""
    return flash_inputs(laid)
