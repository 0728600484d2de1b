"""MPT, replit-code: ALiBi is relative, so a block-diagonal mask is all it needs; eager attention only."""

from typing import Any

from axolotl_core.models.packing import PackingSupport

LORA_NAMES = {"mlp_up": "up_proj", "mlp_down": "down_proj"}


def packs(config: Any) -> PackingSupport:
    return PackingSupport("mask")
