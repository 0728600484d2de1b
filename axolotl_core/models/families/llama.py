"""llama, code-llama, open-llama, vicuna, tinyllama, SmolLM2, XGen's weights."""

from typing import Any

from axolotl_core.models.packs import Packs


def packs(config: Any) -> Packs:
    return Packs("positions")
