"""A module's forward pass replaced by another that gives the same, and put back.

No class is changed: the other forward pass is bound to the one module, and to its copy where peft makes one (lora_modules_to_save).
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

Forward = Callable[[Any, Tensor], Tensor]
"""(module, states) → what the module makes of them."""
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
"""Of a layer's output, as a share of its largest."""


def replace_each(
    model: Any, modules: Iterable[Any], forwards: Callable[[Any], Sequence[Forward]], width: Callable[[Any], int], device: torch.device
) -> list[nn.Module]:
    """Give each module the first of other forward passes that makes of random states what the module makes of them; which got one.

    model: whose modules they are; width: features of a module's states; device: where the model will run.
    """
    replaced = []
    here = model.device.type == device.type
    for module in list(modules):
        tried = module if here else copy.deepcopy(module).to(device)
        states = torch.randn(1, 3, width(module), generator=torch.Generator().manual_seed(0)).to(device, model.dtype)
        for forward in forwards(module):
            if _same(tried, forward, states):
                module.forward = MethodType(forward, module)
                replaced.append(module)
                break
    return replaced


@torch.no_grad()
def _same(module: Any, forward: Forward, states: Tensor) -> bool:
    wanted, got = module(states), forward(module, states)
    close = TOLERANCE.get(states.dtype, 2e-2) * float(wanted.abs().max())
    return got.shape == wanted.shape and got.dtype == wanted.dtype and bool(((got - wanted).abs() <= close).all())


def put_back(model: nn.Module, before: dict[nn.Module, Any]) -> None:
    """The forward passes that modules had before, as `bound` gave them."""
    for module in model.modules():
        module.__dict__.pop("forward", None)
        if module in before:
            module.forward = before[module]


def bound(model: nn.Module) -> dict[nn.Module, Any]:
    """Modules with another forward pass than their class's."""
    return {module: module.__dict__["forward"] for module in model.modules() if "forward" in module.__dict__}
