"""Logits a chunk at a time, for kernels that take logits.   N target tokens, C of a chunk, H features, V vocabulary"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = {"cpu": 2**26, "cuda": 2**29, "mps": 2**28}
"""Logits in fp32 that are held at once. A GPU wants products of a thousand rows and more: 2**29 are 1,046 of 128,256 words."""


def chunks(count: int, vocabulary: int, kind: str) -> list[slice]:
    """Of `count` rows of logits on a type of device."""
    size = max(1, CHUNK_BYTES.get(kind, 2**28) // (4 * vocabulary))
    return [slice(first, first + size) for first in range(0, count, size)]


def chunked(
    of_chunk: Callable[[Tensor, Tensor], Tensor], states_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, labels_N: Tensor
) -> Tensor:
    """Sum of `of_chunk` (logits, labels) over chunks, whose logits are made again in the backward pass."""

    def run(states_CH: Tensor, labels_C: Tensor) -> Tensor:
        return of_chunk(functional.linear(states_CH, weight_VH, bias_V), labels_C)

    parts = [
        checkpoint(run, states_NH[chunk], labels_N[chunk], use_reentrant=False)
        for chunk in chunks(len(labels_N), len(weight_VH), labels_N.device.type)
    ]
    return torch.stack(parts).sum()
