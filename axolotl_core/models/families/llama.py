"""llama, code-llama, open-llama, vicuna, tinyllama, SmolLM2, XGen's weights."""

from typing import Any

from axolotl_core.models.packing import PackingSupport


def packs(config: Any) -> PackingSupport:
    return PackingSupport("positions")
