"""falcon: 7b and 40b are rotary, falcon-rw has ALiBi."""

from typing import Any

from axolotl_core.models.packs import Packs


def packs(config: Any) -> Packs:
    """transformers builds falcon's mask without the positions; ALiBi is made from a 2-D mask and cannot be told apart."""
    if config.alibi:
        return Packs(None, "falcon with ALiBi (falcon-rw) lets packed samples see each other")
    return Packs("mask")
