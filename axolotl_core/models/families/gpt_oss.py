"""gpt-oss: sinks, and every other layer with a window."""

from typing import Any

from axolotl_core.models.packing import PackingSupport


def packs(config: Any) -> PackingSupport:
    """transformers builds its masks without the positions, and takes one for each type of layer."""
    return PackingSupport("layers")
