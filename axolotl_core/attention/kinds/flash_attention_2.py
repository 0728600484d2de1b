"""Flash attention 2 (Dao 2023, arXiv 2307.08691), of the package flash-attn or, where it is asked for, of the hub through `kernels`."""

from typing import Any

from axolotl_core.attention.flash import flash_inputs, lacks
from axolotl_core.attention.laid import Laid
from axolotl_core.attention.need import Need

OPTION = "flash_attention"
PREFERENCE = 50
OPERATORS: tuple[str, ...] = ("flash_attn",)


def fits(need: Need) -> str | None:
    """On Ampere and newer in 16 bits, heads of up to 256; soft caps and windows, no sinks."""
    return lacks(need, package="flash_attn", least=(8, 0)) or ("it has no sinks" if need.sinks else None)


def inputs(laid: Laid) -> dict[str, Any]:
    """Ends of the samples."""
    return flash_inputs(laid)
