"""Attention written out in PyTorch: slow, exact, there for every model and device."""

from axolotl_core.attention.need import Need

IMPLEMENTATION = "eager"
PREFERENCE = 0


def fits(need: Need) -> str | None:
    """Always."""
    return None
