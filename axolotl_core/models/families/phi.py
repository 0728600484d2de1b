"""phi 1, 1.5 and 2."""

from typing import Any

from axolotl_core.models.packs import Packs


def packs(config: Any) -> Packs:
    return Packs("positions")
