"""How much memory a process needs to train a model, from the model's shape: asked before a weight is read.

    weights       as they lie, of sharded ones this process's part, and the layers that are gathered at a time
    gradients     of what is trained
    optimizer     its state; ZeRO's master weights in fp32
    activations   what a forward pass keeps for the backward pass, counted by running it on the meta device, and a chunk of logits

What a caching allocator keeps besides and what Python and its libraries take is not in it.
"""

import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from axolotl_core.distributed.layers import layers
from axolotl_core.kernels.chunked import chunks
from axolotl_core.models.forward import unwrap
from axolotl_core.models.precision import Precision
from axolotl_core.params.optimizers import OptimizerSpec

LOGITS_AT_ONCE = 3
"""Copies of a chunk of logits in fp32: as they are made, their softmax, its gradient."""
PROBED = 64
"""Tokens of the row that is run on the meta device."""
GATHERED_AT_ONCE = 2
"""Layers: the one that runs and the next one."""
REDUCED_AT_ONCE = 2
"""Gradients of a layer in fp32 before they are divided: as they are made, and laid out to be sent."""


QUANTISED_BYTES = {4: 0.516, 8: 1.0}
"""Of a weight: nf4 has a scale of 8 bits for 64 weights, and one of 32 for 256 of those (arXiv 2305.14314)."""


@dataclass(frozen=True)
class Sharding:
    """What is divided among the processes."""

    weights: bool = False
    gradients: bool = False
    states: bool = False
    masters: bool = False
    """Whether fp32 copies of weights are kept with the optimizer's state."""


SHARDINGS = {
    "single": Sharding(),
    "ddp": Sharding(),
    "fsdp": Sharding(weights=True, gradients=True, states=True),
    "zero1": Sharding(states=True, masters=True),
    "zero2": Sharding(gradients=True, states=True, masters=True),
    "zero3": Sharding(weights=True, gradients=True, states=True, masters=True),
}


@dataclass(frozen=True)
class Memory:
    """Bytes of one process."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    accumulates: bool = False

    @property
    def total(self) -> int:
        """At the peak of a step. Gradients of one backward pass come as activations go; those of several passes are there before."""
        passing = (sum if self.accumulates else max)((self.gradients, self.activations))
        return self.weights + self.optimizer + passing

    def line(self) -> str:
        """For the user."""
        parts = ", ".join(f"{name} {_size(getattr(self, name))}" for name in ("weights", "gradients", "optimizer", "activations"))
        return f"about {_size(self.total)} in each process: {parts}"


def _size(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"


def estimate(
    model: Any,
    precision: Precision,
    optimizer: OptimizerSpec,
    strategy: str,
    ranks: int,
    tokens: int,
    *,
    accumulates: bool,
    recomputes: bool = False,
    bits: int | None = None,
) -> Memory:
    """model: on the meta device, as it is trained, with its adapter, not quantised; strategy: a name of SHARDINGS; tokens: of a
    micro-batch; accumulates: whether a step has several of them in a process; recomputes: gradient checkpointing; bits: of the base."""
    sharding = SHARDINGS[strategy]
    trained, blocks = _numbers(model, trained=True), [module for _, module in layers(model)]
    forward = precision.autocast or precision.trained
    lies = forward if sharding.masters else precision.trained
    weights = _frozen(model, precision.frozen, bits) + trained * lies.itemsize
    gradients = math.ceil(trained * lies.itemsize / (ranks if sharding.gradients else 1))
    if sharding.weights:
        each = [_numbers(block) for block in blocks]
        beside = _numbers(model) - sum(each)  # embeddings and output layer, for which the whole model is a layer
        weights = weights // ranks + (GATHERED_AT_ONCE * max(each, default=0) + beside) * forward.itemsize
        ours = [_numbers(block, trained=True) for block in blocks]
        gradients += REDUCED_AT_ONCE * max(*ours, trained - sum(ours), 0) * 4
    elif precision.autocast and not sharding.masters:
        weights += trained * forward.itemsize  # autocast keeps a copy of what it has cast until the pass is over
    states = trained * optimizer.state_bytes(precision.trained.itemsize) + trained * 4 * sharding.masters
    kept = kept_for_backward(model, forward, tokens)
    if recomputes:
        count = max(1, len(blocks))
        kept = kept // count + count * tokens * unwrap(model).config.get_text_config().hidden_size * forward.itemsize
    return Memory(
        weights,
        gradients,
        math.ceil(states / (ranks if sharding.states else 1)),
        kept + _logits(model, tokens),
        accumulates,
    )


def _frozen(model: Any, dtype: torch.dtype, bits: int | None) -> int:
    """Bytes; with bits, what bitsandbytes quantises is a linear layer's, but the output layer's, and is dequantised for its product."""
    head = unwrap(model).get_output_embeddings()
    linear = [module.weight for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    frozen = [weight.numel() for weight in linear if not weight.requires_grad] if bits else []
    others = _numbers(model) - _numbers(model, trained=True) - sum(frozen)
    return math.ceil(sum(frozen) * QUANTISED_BYTES.get(bits or 0, 0.0)) + (others + max(frozen, default=0)) * dtype.itemsize


def _numbers(module: nn.Module, *, trained: bool = False) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad or not trained)


def _logits(model: Any, tokens: int) -> int:
    words = unwrap(model).config.get_text_config().vocab_size
    rows = max(len(range(*chunk.indices(tokens))) for chunk in chunks(tokens, words, "cpu"))
    return LOGITS_AT_ONCE * rows * words * 4


def kept_for_backward(model: Any, dtype: torch.dtype, tokens: int) -> int:
    """Bytes of tensors that a forward pass of one row keeps, without weights: all of them are as long as the row, so that a short one
    says it of a long one. dtype: of the pass. model: on the meta device."""
    model = copy.deepcopy(model).to(dtype).train()
    inner = unwrap(model)
    inner.set_attn_implementation(NAME)
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)  # or another one would get its number
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        inner.base_model(input_ids=torch.zeros(1, PROBED, dtype=torch.long, device="meta"), use_cache=False)
    return sum(kept.values()) * tokens // PROBED


class _Attention(torch.autograd.Function):
    """Keeps what kernels of attention keep: queries, keys, values, the result, and a number for each query."""

    @staticmethod
    def forward(context: Any, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor) -> Tensor:
        result_BTHD = query_BHTD.new_empty(query_BHTD.shape[:-1] + value_BKTD.shape[-1:]).transpose(1, 2).contiguous()
        sums_BHT = query_BHTD.new_empty(query_BHTD.shape[:-1], dtype=torch.float32)
        context.save_for_backward(query_BHTD, key_BKTD, value_BKTD, result_BTHD, sums_BHT)
        return result_BTHD

    @staticmethod
    def backward(*_: Any) -> Any:
        raise AssertionError("nothing is computed on the meta device")


def _attention(_: Any, query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, *__: Any, **___: Any) -> tuple[Tensor, None]:
    result: Tensor = _Attention.apply(query_BHTD, key_BKTD, value_BKTD)  # type: ignore[no-untyped-call]
    return result, None


NAME = "counted"
AttentionInterface.register(NAME, _attention)
