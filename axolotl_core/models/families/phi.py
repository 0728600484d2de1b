"""phi 1, 1.5 and 2."""

from typing import Any

from axolotl_core.models.packing import PackingSupport


def packs(config: Any) -> PackingSupport:
    return PackingSupport("positions")
