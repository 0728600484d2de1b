"""The modules of a model that are sharded, and gathered, each by itself: its decoder layers."""

from collections.abc import Sequence
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from axolotl_core.errors import MachineError
from axolotl_core.models.forward import unwrap


def layers(model: Any, wanted: Sequence[str] = ()) -> list[tuple[str, nn.Module]]:
    """(name, module), the inner before the outer. wanted: names of classes, unset: the model's own. Raises MachineError.

    A module with an adapter beside it is gathered with that: DoRA computes with the weights of both, and not with what the modules give.
    """
    names, found, adapted = set(class_names(model, wanted)), [], ""
    for name, module in model.named_modules():
        if adapted and name.startswith(adapted):
            continue
        is_adapted = isinstance(module, BaseTunerLayer)
        adapted = f"{name}." if is_adapted else ""
        if type(module.get_base_layer() if is_adapted else module).__name__ in names:
            found.append((name, module))
    return found[::-1]


def class_names(model: Any, wanted: Sequence[str]) -> Sequence[str]:
    """Of the layers: those of params.yaml, or the model's own. Raises MachineError for a class that the model has not."""
    inner = unwrap(model)
    there = {type(module).__name__ for module in inner.modules()}
    if unknown := [name for name in wanted if name not in there]:
        own = ", ".join(sorted(inner._no_split_modules or ()))
        raise MachineError(
            f"machine.fsdp_config: transformer_layer_cls_to_wrap is {unknown[0]}, which is no class of a module of "
            f"{type(inner).__name__}; its layers are {own}"
        )
    return wanted or sorted(inner._no_split_modules or ())
