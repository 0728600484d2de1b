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
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from axolotl_core.attention.choose import backend_of
from axolotl_core.models.forward import unwrap

LEAST_BYTES = 2**20
"""Smaller tensors stay on the device: a copy costs more than it frees."""
PRODUCTS = ("aten::mm", "aten::addmm", "aten::_grouped_mm")
"""Operators of linear layers and experts, whose results `selective` keeps beside those of attention."""


def checkpoint_layers(model: Any, *, selective: bool) -> None:
    """Let each decoder layer be computed again in the backward pass; selective: but for its costly operators."""
    settings: dict[str, Any] = {"use_reentrant": False}
    if selective:
        attention = tuple(backend_of(unwrap(model)).OPERATORS)
        settings["context_fn"] = partial(create_selective_checkpoint_contexts, partial(_policy, attention))
    model.gradient_checkpointing_enable(settings)
    model.enable_input_require_grads()


def _policy(attention: tuple[str, ...], _: Any, operator: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    name = operator.name() if callable(getattr(operator, "name", None)) else str(operator)
    kept = name.partition(".")[0] in PRODUCTS or any(part in name for part in attention)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


class Offload:
    """Keeps what a forward pass keeps on `device` in the machine's memory instead. moved: shapes of what was moved.

    Weights stay, known by where they lie; so do copies of weights that autocast makes, known by their shape, unless it is that of a
    batch's rows. A tensor that is kept twice is copied once, one that is larger than what it is a view of (a mask for all heads) stays.
    """

    def __init__(self, model: torch.nn.Module, device: torch.device, tokens: int) -> None:
        weights = list(model.parameters())
        self.device, self.moved = device, list[tuple[int, ...]]()
        self.places = {weight.untyped_storage().data_ptr() for weight in weights}
        shapes = {tuple(weight.shape) for weight in weights if weight.ndim > 1}
        self.shapes = {shape for found in shapes for shape in (found, (*found[:-2], found[-1], found[-2])) if shape[0] != tokens}
        self.copies: dict[tuple[Any, ...], tuple[StorageWeakRef, Tensor]] = {}

    def pack(self, kept: Tensor) -> Tensor | tuple[Tensor]:
        """What autograd holds in the place of a tensor."""
        storage = kept.untyped_storage()
        size = kept.numel() * kept.element_size()
        stays = kept.device != self.device or size < LEAST_BYTES or size > storage.nbytes()
        if stays or storage.data_ptr() in self.places or tuple(kept.shape) in self.shapes:
            return kept
        name = (storage.data_ptr(), kept.storage_offset(), kept.shape, kept.stride(), kept._version)
        original, away = self.copies.get(name, (None, None))
        if original is None or away is None or original.expired():  # freed meanwhile, and its place is another tensor's
            self.moved.append(tuple(kept.shape))
            away = torch.empty(kept.shape, dtype=kept.dtype, pin_memory=self.device.type == "cuda").copy_(kept, non_blocking=True)
            self.copies[name] = StorageWeakRef(storage), away
        return (away,)

    def unpack(self, held: Tensor | tuple[Tensor]) -> Tensor:
        """The tensor, on its device again where it was moved."""
        return held if isinstance(held, Tensor) else held[0].to(self.device, non_blocking=True)


@contextmanager
def offloaded(model: torch.nn.Module, device: torch.device, tokens: int) -> Iterator[list[tuple[int, ...]]]:
    """Around a forward pass of so many tokens. Yields the shapes of what was moved."""
    offload = Offload(model, device, tokens)
    with torch.autograd.graph.saved_tensors_hooks(offload.pack, offload.unpack):
        yield offload.moved
    offload.copies.clear()
