"""Which attention backend a run takes. Each backend (a file in kinds/) says itself what it fits."""

from types import ModuleType

from axolotl_core import lookup
from axolotl_core.attention.need import Need
from axolotl_core.errors import ModelError
from axolotl_core.params.machine import Machine

KINDS = "axolotl_core.attention.kinds"
FLAGS = {
    "flash_attention": "flash_attention_2",
    "flex_attention": "flex_attention",
    "xformers_attention": "xformers",
    "flash_optimum": "bettertransformer",
    "sdp_attention": "sdpa",
    "eager_attention": "eager",
}
"""Switch of the machine section → the kind that it requests; not all are here yet."""


def requested_kinds(machine: Machine) -> list[str]:
    """Names of the backends that the machine section prefers, the first of them most."""
    named = [machine.attn_implementation] if machine.attn_implementation else []
    return list(dict.fromkeys([*named, *(kind for flag, kind in FLAGS.items() if getattr(machine, flag))]))


def choose(machine: Machine, need: Need) -> tuple[str, str | None]:
    """transformers' name of the backend, and a sentence where it is another one than was requested.

    Raises ModelError with the reason in place of that sentence where machine.allow_fallback is false.
    """
    requested, reasons = requested_kinds(machine), []
    kinds = _by_preference()
    for kind in [*requested, *kinds]:
        reason = _backend(kind).fits(need) if kind in kinds else "this version has no such attention"
        if reason is None:
            taken = str(_backend(kind).IMPLEMENTATION)
            break
        reasons.append(f"{kind} attention does not fit: {reason}")
    else:
        raise AssertionError("eager fits everything")
    if not requested or kind == requested[0]:
        return taken, None
    if not machine.allow_fallback:
        raise ModelError(f"machine: {reasons[0]} (machine.allow_fallback is false)")
    return taken, f"machine: {reasons[0]}; {taken} is taken{' (on a GPU it runs flash attention)' if taken == 'sdpa' else ''}"


def _by_preference() -> list[str]:
    """Every kind there is, those that are taken first where nothing else is requested."""
    return sorted(lookup.names(KINDS), key=lambda kind: -int(_backend(kind).PREFERENCE))


def _backend(kind: str) -> ModuleType:
    return lookup.find(KINDS, kind, "attention backend")
