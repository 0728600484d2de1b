"""falcon: 7b and 40b are rotary, falcon-rw has ALiBi."""

from typing import Any

from axolotl_core.models.packing import PackingSupport


def packs(config: Any) -> PackingSupport:
    """transformers builds falcon's mask without the positions; ALiBi is made from a 2-D mask and cannot be told apart."""
    if config.alibi:
        return PackingSupport(None, "falcon with ALiBi (falcon-rw) lets packed samples see each other")
    return PackingSupport("mask")
