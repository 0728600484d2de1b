"""Attention written out in PyTorch: slow, exact, there for every model and device."""

from typing import Any

from axolotl_core.attention.laid import Laid
from axolotl_core.attention.need import Need

OPTION = "eager_attention"
PREFERENCE = 0
OPERATORS: tuple[str, ...] = ()


def fits(need: Need) -> str | None:
    """Always."""
    return None


def inputs(laid: Laid) -> dict[str, Any]:
    """A mask of T × T, which transformers builds from positions where the family lets it."""
    return laid.mask_kwargs()
