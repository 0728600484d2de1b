"""Which attention backend a run takes. Each backend (a file in kinds/) says itself what it fits and what it is given:

    OPTION        its switch in the machine section, None for one that has none
    PREFERENCE    the higher, the sooner it is taken where nothing else is requested
    OPERATORS     parts of the names of its operators, whose results selective checkpointing keeps
    fits(need)    None, or why not
    inputs(laid)  arguments that the model is called with beside ids and positions

The file's name is the one that transformers has for it, or that it has registered there.
"""

from dataclasses import replace
from types import ModuleType
from typing import Any

from axolotl_core import lookup
from axolotl_core.attention.need import Need
from axolotl_core.errors import ModelError
from axolotl_core.params.machine import Machine

KINDS = "axolotl_core.attention.kinds"
ON_ANY_DEVICE = ("varlen", "sdpa", "eager")
FOR_ANY_ROW = ("sdpa", "eager")
"""What is taken unasked for rows of one sample each, which no mask has to keep apart."""


def backend(kind: str) -> ModuleType:
    """The file of a kind, which has registered what it adds to transformers. Raises ParamsError for a kind there is not."""
    return lookup.find(KINDS, kind, "attention backend")


def backend_of(model: Any) -> ModuleType:
    """That of a transformers model. Flash attention that came through `kernels` has the name of a repository."""
    kind = model.config._attn_implementation
    return backend(kind if kind in lookup.names(KINDS) else "flash_attention_2")


def requested_kinds(machine: Machine) -> list[str]:
    """Names of the backends that the machine section prefers, the first of them most."""
    named = [machine.attn_implementation] if machine.attn_implementation else []
    switched = [kind for kind in _by_preference() if (option := backend(kind).OPTION) and getattr(machine, option)]
    return list(dict.fromkeys([*named, *switched]))


def choose(machine: Machine, need: Need) -> tuple[str, str | None]:
    """The kind that is taken, and a sentence where it is another one than was requested.

    Raises ModelError with the reason in place of that sentence where machine.allow_fallback is false.
    """
    requested, reasons = requested_kinds(machine), []
    kinds = [kind for kind in _by_preference() if need.packed or kind in FOR_ANY_ROW]
    for kind in dict.fromkeys([*requested, *kinds]):
        reason = why_not(kind, replace(need, requested=kind in requested))
        if reason is None:
            break
        reasons.append(f"{kind} attention does not fit: {reason}")
    else:
        raise AssertionError("eager fits everything")
    if not requested or (kind in requested and _option(kind) == _option(requested[0])):
        return kind, None
    if not machine.allow_fallback:
        raise ModelError(f"machine: {reasons[0]} (machine.allow_fallback is false)")
    return kind, f"machine: {reasons[0]}; {kind} is taken"


def why_not(kind: str, need: Need) -> str | None:
    """Why a kind does not fit, None where it does."""
    if kind not in lookup.names(KINDS):
        return "this version has no such attention"
    reason: str | None = backend(kind).fits(need)
    return reason


def explained(machine: Machine, need: Need) -> str:
    """What is taken and why nothing better is, for `axolotl check`: "varlen attention on cpu; no flash_attention_3: it runs on …"."""
    kind, _ = choose(machine, need)
    better = [] if requested_kinds(machine) or not need.packed else _by_preference()[: _by_preference().index(kind)]
    reasons: dict[str, list[str]] = {}
    for other in better:
        reasons.setdefault(str(why_not(other, need)), []).append(other)
    return "; ".join([f"{kind} attention on {need.device.type}", *(f"no {', '.join(kinds)}: {why}" for why, kinds in reasons.items())])


def _option(kind: str) -> str | None:
    """The switch of a kind; kinds of one switch are as good as each other."""
    option: str | None = backend(kind).OPTION if kind in lookup.names(KINDS) else None
    return option or kind


def _by_preference() -> list[str]:
    """Every kind there is, those that are taken first where nothing else is requested."""
    return sorted(lookup.names(KINDS), key=lambda kind: -int(backend(kind).PREFERENCE))
