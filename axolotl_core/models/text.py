"""The text part of a model that sees or hears too (Gemma 3): what is trained of it. The other parts stay as they are, and are exported
with it."""

import re
from typing import Any


def other_parts(model: Any) -> list[str]:
    """Names of the modules beside the decoder that take other inputs than text; none of a language model.

    model: of transformers, without an adapter.
    """
    if model.config.get_text_config() is model.config:
        return []
    names = {id(module): name for name, module in model.named_modules()}
    home, _, decoder = names[id(model.get_decoder())].rpartition(".")
    words = {id(module) for module in (model.get_input_embeddings(), model.get_output_embeddings())}
    beside = [(name, module) for name, module in model.get_submodule(home).named_children() if name != decoder and id(module) not in words]
    return [f"{home}.{name}".removeprefix(".") for name, _ in beside]


def pattern(model: Any) -> str | None:
    """A regular expression that matches the names of all modules of the other parts; None where there are none."""
    parts = other_parts(model)
    return rf"({'|'.join(map(re.escape, parts))})(\..*)?" if parts else None


def freeze_others(model: Any) -> None:
    """Train the text part alone."""
    for name in other_parts(model):
        model.get_submodule(name).requires_grad_(False)
