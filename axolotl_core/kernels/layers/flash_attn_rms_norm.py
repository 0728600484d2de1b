"""flash-attn's RMS norm, in triton. Its source was compared in triton's interpreter; the package itself is imported on a GPU alone."""

from typing import Any

import torch
from torch import nn

from axolotl_core.attention.need import Need
from axolotl_core.kernels.norms import replace_norms
from axolotl_core.kernels.triton import lacks

OPTIONS = ("flash_attn_rms_norm",)


def fits(need: Need) -> str | None:
    """Where flash-attn is."""
    return lacks(need.device, "flash_attn", "flash-attn")


def replace(model: nn.Module, device: torch.device) -> list[nn.Module]:
    """The norms that run it now."""
    from flash_attn.ops.triton.layer_norm import rms_norm_fn

    def kernel(plus_one: bool) -> Any:
        return lambda states, weight, epsilon: rms_norm_fn(states, weight, None, eps=epsilon, zero_centered_weight=plus_one)

    return replace_norms(model, [kernel(False), kernel(True)], device)
