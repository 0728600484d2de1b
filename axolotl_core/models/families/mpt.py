"""MPT: ALiBi is relative, so a block-diagonal mask is all it needs; eager attention only."""

from typing import Any

from axolotl_core.models.packs import Packs


def packs(config: Any) -> Packs:
    return Packs("mask")
