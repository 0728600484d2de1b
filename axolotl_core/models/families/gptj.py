"""GPT-J; it has eager and flash attention only."""

from typing import Any

from axolotl_core.models.packing import PackingSupport


def packs(config: Any) -> PackingSupport:
    return PackingSupport("positions")
