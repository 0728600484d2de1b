"""Modules of RMS norm, whatever a family calls them, and what a kernel needs of one.

y = x / √(mean(x²) + ε) · (w + offset) (Zhang & Sennrich 2019, arXiv 1910.07467); Gemma stores w less 1.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from axolotl_core.kernels.replace import Forward, replace_each

Kernel = Callable[[Tensor, nn.Parameter, float], Tensor]
"""(states, weight, ε) → states."""


def replace_norms(model: nn.Module, kernels: Sequence[Kernel], device: torch.device) -> list[nn.Module]:
    """Let each RMS norm run the first kernel that gives the same; which do."""
    forwards = [_forward_of(kernel) for kernel in kernels]
    return replace_each(model, _norms(model), lambda _: forwards, lambda module: len(module.weight), device)


def _forward_of(kernel: Kernel) -> Forward:
    def forward(module: Any, hidden_states: Tensor) -> Tensor:
        return kernel(hidden_states, module.weight, _epsilon(module))

    return forward


def _norms(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        if "RMSNorm" in type(module).__name__ and getattr(module, "weight", None) is not None and _epsilon(module) is not None:
            yield module


def _epsilon(module: Any) -> Any:
    return getattr(module, "variance_epsilon", getattr(module, "eps", None))
