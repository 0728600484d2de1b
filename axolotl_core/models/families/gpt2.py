"""GPT-2 and cerebras."""

from typing import Any

from axolotl_core.models.packing import PackingSupport


def packs(config: Any) -> PackingSupport:
    return PackingSupport("positions")
