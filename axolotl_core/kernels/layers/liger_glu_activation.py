"""Liger's SwiGLU and GeGLU: activation and product in one pass, computed again in the backward pass instead of kept."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import GELUTanh, SiLUActivation

from axolotl_core.attention.need import Need
from axolotl_core.kernels.replace import Forward, replace_each
from axolotl_core.kernels.triton import lacks

OPTIONS = ("liger_glu_activation", "liger_swiglu")
PARTS = ("gate_proj", "up_proj", "down_proj", "act_fn")


def fits(need: Need) -> str | None:
    """Where triton and liger-kernel are."""
    return lacks(need.device, "liger_kernel", "kernels")


def replace(model: nn.Module, device: torch.device) -> list[nn.Module]:
    """The MLPs that run it now."""
    from liger_kernel.ops.geglu import LigerGELUMulFunction
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    kernels: dict[type, Any] = {
        nn.SiLU: LigerSiLUMulFunction,
        SiLUActivation: LigerSiLUMulFunction,
        GELUTanh: LigerGELUMulFunction,
    }

    def forwards(module: Any) -> list[Forward]:
        kernel = kernels.get(type(module.act_fn))
        return [_forward_of(kernel)] if kernel else []

    return replace_each(model, _gated(model), forwards, lambda module: module.gate_proj.in_features, device)


def _forward_of(kernel: Any) -> Forward:
    def forward(module: Any, x: Tensor) -> Tensor:
        out: Tensor = module.down_proj(kernel.apply(module.gate_proj(x), module.up_proj(x)))
        return out

    return forward


def _gated(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        if all(hasattr(module, part) for part in PARTS):
            yield module
