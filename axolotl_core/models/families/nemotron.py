"""Nemotron, Minitron."""

from typing import Any

from axolotl_core.models.packing import PackingSupport


def packs(config: Any) -> PackingSupport:
    """transformers' class has the interface of attention, and drops the arguments that it is called with."""
    return PackingSupport("positions", passes_on=False)
