"""How a model keeps the samples of a packed row apart."""

from dataclasses import dataclass
from typing import Any, Literal

from axolotl_core.models.family import of_family


@dataclass(frozen=True)
class PackingSupport:
    """positions: by position_ids that restart, without an attention mask and without a cache.

    layers: as positions, but where attention takes a mask, the model wants one for each type of layer. mask: by an additive 4-D mask,
    whatever the attention. None: not at all, and `reason` says why.
    """

    method: Literal["positions", "layers", "mask"] | None
    reason: str = ""
    passes_on: bool = True
    """Whether the model passes on to its attention where samples end, if transformers' interface of attention is what it has."""


def packing_support(config: Any) -> PackingSupport:
    """What the family's file says; a family without one is taken by its positions and left to the self-test.

    config: a transformers config, or anything with the attributes of config.json.
    """
    packs = of_family(config, "packs", lambda _: PackingSupport("positions"))
    found: PackingSupport = packs(config)
    return found
