"""MPT: ALiBi is relative, so a block-diagonal mask is all it needs; eager attention only."""

from typing import Any

from axolotl_core.models.packing import PackingSupport


def packs(config: Any) -> PackingSupport:
    return PackingSupport("mask")
