"""What is kept of a forward pass for the backward pass.

    gradient_checkpointing   kept of each decoder layer
    false                    everything
    selective                its input, products of matrices and attention; the rest is computed again
    true                     its input alone
    offload                  its input, in the machine's memory

The gradients are the same.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

LEAST_BYTES = 2**20
"""Smaller tensors stay on the device: a copy costs more than it frees."""
KEPT = frozenset(
    {
        "aten::mm",
        "aten::addmm",
        "aten::_scaled_dot_product_flash_attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_efficient_attention",
        "aten::_scaled_dot_product_cudnn_attention",
        "aten::_flash_attention_forward",
        "torch_attn::_varlen_attn",
        "flash_attn::_flash_attn_varlen_forward",
        "flex_attention",
    }
)
"""Operators whose results `selective` keeps: what takes the time of a layer."""


def checkpoint_layers(model: Any, *, selective: bool) -> None:
    """Let each decoder layer be computed again in the backward pass; selective: but for its costly operators."""
    settings: dict[str, Any] = {"use_reentrant": False}
    if selective:
        settings["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    model.gradient_checkpointing_enable(settings)
    model.enable_input_require_grads()


def _policy(_: Any, operator: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    name = operator.name() if hasattr(operator, "name") and callable(operator.name) else str(operator)
    return CheckpointPolicy.MUST_SAVE if name.partition(".")[0] in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


@contextmanager
def offloaded(model: torch.nn.Module, device: torch.device) -> Iterator[list[tuple[int, ...]]]:
    """Around a forward pass: what it keeps on `device` is kept in the machine's memory. Yields the shapes of what was moved.

    Weights stay, and so do the copies of them in another dtype that autocast makes.
    """
    weights = {tuple(p.shape) for p in model.parameters()} | {tuple(p.shape[::-1]) for p in model.parameters() if p.ndim == 2}
    moved: list[tuple[int, ...]] = []

    def pack(kept: Tensor) -> Tensor | tuple[torch.device, Tensor]:
        small = kept.numel() * kept.element_size() < LEAST_BYTES
        if small or kept.device != device or tuple(kept.shape) in weights or isinstance(kept, torch.nn.Parameter):
            return kept
        moved.append(tuple(kept.shape))
        away = torch.empty(kept.shape, dtype=kept.dtype, pin_memory=device.type == "cuda")
        away.copy_(kept, non_blocking=True)
        return device, away

    def unpack(kept: Tensor | tuple[torch.device, Tensor]) -> Tensor:
        return kept if isinstance(kept, Tensor) else kept[1].to(kept[0], non_blocking=True)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield moved
