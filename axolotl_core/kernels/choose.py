"""Which kernels of the machine section a run takes. Each is a file, in layers/ or in losses/, that says itself what it fits:

    OPTIONS                                     its switches in the machine section
    fits(need)                                  None, or why not
    replace(model, device)                      layers: the modules that run it from now on
    loss_sum(states, weight, bias, labels)      losses: Σ cross-entropy of a plain output layer

A kernel that gives something else than PyTorch's layers is not taken, which is tried on the model itself before the first step.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import Tensor

from axolotl_core import lookup
from axolotl_core.attention.need import Need
from axolotl_core.errors import ModelError, foreign
from axolotl_core.kernels.replace import bound, put_back
from axolotl_core.params.machine import Machine

LAYERS = "axolotl_core.kernels.layers"
LOSSES = "axolotl_core.kernels.losses"
INSTEAD = {LAYERS: "PyTorch's own layers run", LOSSES: "logits are made a few positions at a time, in PyTorch"}


def requested(machine: Machine, table: str) -> list[tuple[str, ModuleType]]:
    """(switch that is on, kernel), one for each kernel."""
    kernels = [lookup.find(table, name, "kernel") for name in lookup.names(table)]
    found = [(next((option for option in kernel.OPTIONS if getattr(machine, option)), None), kernel) for kernel in kernels]
    return [(option, kernel) for option, kernel in found if option]


def unmet(machine: Machine, need: Need) -> list[str]:
    """A sentence for each kernel that is requested and does not fit. Raises ModelError in its place without machine.allow_fallback."""
    return [
        instead(machine, table, option, reason)
        for table in (LAYERS, LOSSES)
        for option, kernel in requested(machine, table)
        if (reason := kernel.fits(need)) is not None
    ]


def instead(machine: Machine, table: str, option: str, reason: str) -> str:
    """What is said of a kernel that is not taken. Raises ModelError in its place where machine.allow_fallback is false."""
    if not machine.allow_fallback:
        raise ModelError(f"machine.{option}: {reason} (machine.allow_fallback is false)")
    return f"machine.{option}: {reason}; {INSTEAD[table]}"


def replace_layers(model: Any, machine: Machine, need: Need, difference: Callable[[Callable[[], object]], str | None]) -> list[str]:
    """Let modules of the model run the kernels that are requested and fit; a sentence for each that does not do what they do.

    difference: calls its argument, which changes the model, and says how the model's numbers differ from before, None where they do not.
    """
    notes = []
    for option, kernel in requested(machine, LAYERS):
        if kernel.fits(need) is not None:
            continue  # `unmet` says so
        before, replaced = bound(model), []
        wrong = _wrong(difference, lambda kernel=kernel, replaced=replaced: replaced.extend(kernel.replace(model, need.device)))
        if wrong or not replaced:
            put_back(model, before)
            notes.append(instead(machine, LAYERS, option, wrong or f"{type(model).__name__} has no layer that it computes"))
    return notes


def choose_loss(
    machine: Machine, need: Need, difference: Callable[[ModuleType], str | None]
) -> tuple[Callable[..., Tensor] | None, list[str]]:
    """The loss kernel that is taken, None for PyTorch, and a sentence for each that does not give what PyTorch gives.

    difference: how the numbers of a kernel's file differ, None where they do not.
    """
    notes = []
    for option, kernel in requested(machine, LOSSES):
        if kernel.fits(need) is not None:
            continue
        wrong = _wrong(difference, kernel)
        if wrong is None:
            return kernel.loss_sum, notes
        notes.append(instead(machine, LOSSES, option, wrong))
    return None, notes


def _wrong(difference: Callable[[Any], str | None], tried: Any) -> str | None:
    """`difference` of what is tried. A kernel that does not compile here, or a package that has moved what it had, is a sentence too."""
    try:
        with foreign(ModelError):
            return difference(tried)
    except ModelError as error:
        return f"it does not run here ({error})"
