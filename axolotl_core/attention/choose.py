"""Which attention backend a run takes. Each backend (a file in kinds/) says itself what it fits."""

from types import ModuleType

from axolotl_core import lookup
from axolotl_core.attention.need import Need
from axolotl_core.errors import ModelError
from axolotl_core.params.machine import Machine

KINDS = "axolotl_core.attention.kinds"
FLAGS = {"sdp_attention": "sdpa", "eager_attention": "eager"}
PREFERRED = ("sdpa", "eager")


def choose(machine: Machine, need: Need) -> str:
    """transformers' name of the backend: the one asked for, or the first preferred one that fits.

    Raises ModelError with the backend's own reason when the one asked for does not fit.
    """
    asked = [kind for flag, kind in FLAGS.items() if getattr(machine, flag)]
    for kind in asked or PREFERRED:
        backend = _backend(kind)
        reason = backend.fits(need)
        if reason is None:
            return str(backend.IMPLEMENTATION)
        if asked:
            raise ModelError(f"machine: {kind} attention does not fit: {reason}")
    raise AssertionError("eager fits everything")


def _backend(kind: str) -> ModuleType:
    return lookup.find(KINDS, kind, "attention backend")
