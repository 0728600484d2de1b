"""What the kernels of flash attention have in common: what they run on, and what they are given."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from axolotl_core.attention.laid import Laid
from axolotl_core.attention.need import Need

MOST_FEATURES = 256
"""Of a head, in the kernels of flash attention 2 and 3 and in torch's."""
INSTALLED_BY = {
    "flash_attn": "pip install 'axolotl[flash-attn]'",
    "flash_attn_interface": "it is built from the folder hopper of flash-attention",
}
"""What is imported → what brings it along."""
SIXTEEN_BITS = (torch.bfloat16, torch.float16)


def lacks(need: Need, *, package: str | None, least: tuple[int, int]) -> str | None:
    """Why flash attention does not fit, None where it does. package: what is imported; least: compute capability.

    Where Hugging Face's package `kernels` is all there is, which fetches it from the hub, it has to be asked for.
    """
    if need.device.type != "cuda":
        return f"it runs on a GPU, not on {need.device.type}"
    if package and find_spec(package) is None and not (need.requested and find_spec("kernels")):
        return f"{package} is not installed; {INSTALLED_BY[package]}"
    if need.capability < least:
        return f"it wants a GPU of compute capability {'.'.join(map(str, least))} or newer"
    if package and not getattr(need.model_class, "_supports_flash_attn", False):
        return f"{need.model_class.__name__} has no flash attention"
    if not need.by_interface:
        return need.not_by_interface
    if need.dtype not in SIXTEEN_BITS:
        return f"it runs in 16 bits, not in {str(need.dtype).removeprefix('torch.')}; set training.bf16: true"
    if need.head_size > MOST_FEATURES:
        return f"heads have {need.head_size} features, it has room for {MOST_FEATURES}"
    return "samples are cut into chunks" if need.chunk else None


def forward_dtype(query: Tensor) -> torch.dtype:
    """What a kernel computes in: norms of queries and keys with weights in fp32 give fp32 under autocast."""
    kind = query.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype


def flash_inputs(laid: Laid) -> dict[str, Any]:
    """Ends of the samples; the backward pass in a fixed order, so that a resumed run ends with the same bytes."""
    return {**laid.sequences.flash_kwargs(), "deterministic": True}
