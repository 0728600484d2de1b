"""What a family of models has of its own, from its file in families/; most have none."""

from typing import Any

from axolotl_core import lookup

FAMILIES = "axolotl_core.models.families"


def of_family(config: Any, part: str, usual: Any) -> Any:
    """That part of the family's file, `usual` where the family has no file or its file not this part.

    config: a transformers config, or anything with the attributes of config.json. Parts:

    packs(config) → `PackingSupport`: how the samples of a packed row are kept apart
    ROUTING_JUMPS: whether its router cuts off at a threshold, so that roundings of 16 bits send a token elsewhere
    LORA_NAMES: name of a module in a repository's own code, as old params name it → its name in transformers
    """
    if config.model_type not in lookup.names(FAMILIES):
        return usual
    return getattr(lookup.find(FAMILIES, config.model_type, "family"), part, usual)
