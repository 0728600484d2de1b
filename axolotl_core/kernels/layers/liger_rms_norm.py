"""Liger's RMS norm (Hsu et al. 2024, arXiv 2410.10989): one pass forward, one backward, nothing kept but a number a row."""

from typing import Any

import torch
from torch import nn

from axolotl_core.attention.need import Need
from axolotl_core.kernels.norms import replace_norms
from axolotl_core.kernels.triton import lacks

OPTIONS = ("liger_rms_norm",)
VARIANTS = ((0.0, "llama"), (1.0, "gemma"), (0.0, "gemma"), (0.0, "none"))
"""(offset of the weight, what is computed in fp32)"""


def fits(need: Need) -> str | None:
    """Where triton and liger-kernel are."""
    return lacks(need.device, "liger_kernel", "kernels")


def replace(model: nn.Module, device: torch.device) -> list[nn.Module]:
    """The norms that run it now."""
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    def kernel(offset: float, casting: str) -> Any:
        return lambda states, weight, epsilon: LigerRMSNormFunction.apply(states, weight, epsilon, offset, casting, False)

    return replace_norms(model, [kernel(*variant) for variant in VARIANTS], device)
