"""What the kernels of flash attention have in common: what they run on, and what they are given."""

from importlib.util import find_spec
from typing import Any

import torch

from axolotl_core.attention.laid import Laid
from axolotl_core.attention.need import Need

MOST_FEATURES = 256
"""Of a head, in the kernels of flash attention 2 and 3 and in torch's."""
SIXTEEN_BITS = (torch.bfloat16, torch.float16)


def lacks(need: Need, *, package: str | None, least: tuple[int, int]) -> str | None:
    """Why flash attention does not fit, None where it does. package: what has to be installed; least: compute capability.

    Installed only as `kernels`, which fetches it from the hub, it has to be asked for.
    """
    if need.device.type != "cuda":
        return f"it runs on a GPU, not on {need.device.type}"
    if package and find_spec(package) is None and not (need.requested and find_spec("kernels")):
        return "flash-attn is not installed; pip install 'axolotl[flash-attn]'"
    if need.capability < least:
        return f"it wants a GPU of compute capability {'.'.join(map(str, least))} or newer"
    if package and not getattr(need.model_class, "_supports_flash_attn", False):
        return f"{need.model_class.__name__} has no flash attention"
    if not need.by_interface:
        return f"{need.model_class.__name__} does not pass on where samples end"
    if need.dtype not in SIXTEEN_BITS:
        return f"it runs in 16 bits, not in {str(need.dtype).removeprefix('torch.')}; set training.bf16: true"
    if need.head_size > MOST_FEATURES:
        return f"heads have {need.head_size} features, it has room for {MOST_FEATURES}"
    return "samples are cut into chunks" if need.chunk else None


def flash_inputs(laid: Laid) -> dict[str, Any]:
    """Ends of the samples; the backward pass in a fixed order, so that a resumed run ends with the same bytes."""
    return {**laid.sequences.flash_kwargs(), "deterministic": True}
