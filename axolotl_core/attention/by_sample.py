"""Attention one sample at a time: what every kernel for packed rows must equal, and on a CPU the fastest.

A row of T tokens in samples of L costs T L instead of T². Sliding windows, soft caps and sinks as the models of transformers pass them.

B rows, H heads, K heads of keys and values, T tokens, L tokens of a sample, D features
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from axolotl_core.errors import ModelError


def attend_by_sample(
    query_BHTD: Tensor,
    key_BKTD: Tensor,
    value_BKTD: Tensor,
    lengths: Sequence[int],
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    sinks_H: Tensor | None = None,
) -> Tensor:
    """Causal attention within samples, (B, T, H, D). lengths: of the samples of all rows, one row after the other."""
    rows, _, tokens, _ = query_BHTD.shape
    parts = [_in_one_row(states).split(list(lengths), 2) for states in (query_BHTD, key_BKTD, value_BKTD)]
    found = [
        attend(
            *states,
            mask=_window(length, sliding_window, query_BHTD.device),
            scaling=scaling,
            dropout=dropout,
            softcap=softcap,
            sinks_H=sinks_H,
        )
        for length, states in zip(lengths, zip(*parts, strict=True), strict=True)
    ]
    return torch.cat(found, 2)[0].transpose(0, 1).reshape(rows, tokens, query_BHTD.shape[1], -1)


def _in_one_row(states_BHTD: Tensor) -> Tensor:
    """(1, H, B T, D)"""
    return states_BHTD if len(states_BHTD) == 1 else states_BHTD.transpose(0, 1).flatten(1, 2)[None]


def _window(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """(L, L), true where a token may look; None for everything up to itself."""
    if window is None or length <= window:
        return None
    seen_LL = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    return seen_LL.triu(1 - window)


def attend_masked(query_BHTD: Tensor, key_BKSD: Tensor, value_BKSD: Tensor, mask: Tensor | None, **shaped: Any) -> Tensor:
    """(B, T, H, D), for a kernel that was not told where samples end: replies, which have a mask. Raises ModelError without one."""
    if mask is None:
        raise ModelError("the model does not pass on to its attention where samples end; set machine.eager_attention: true")
    return attend(query_BHTD, key_BKSD, value_BKSD, mask=mask, **shaped).transpose(1, 2)


def attend(
    query_BHTD: Tensor,
    key_BKSD: Tensor,
    value_BKSD: Tensor,
    *,
    mask: Tensor | None,
    scaling: float | None,
    dropout: float = 0.0,
    softcap: float | None = None,
    sinks_H: Tensor | None = None,
) -> Tensor:
    """(B, H, T, D). mask: true where a token may look; None for causal, or for all keys to a single query."""
    causal = mask is None and query_BHTD.shape[2] > 1
    if softcap is None and sinks_H is None:
        return functional.scaled_dot_product_attention(
            query_BHTD, key_BKSD, value_BKSD, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scaling, enable_gqa=True
        )
    group = query_BHTD.shape[1] // key_BKSD.shape[1]
    scale = query_BHTD.shape[-1] ** -0.5 if scaling is None else scaling
    scores_BHTS = query_BHTD @ key_BKSD.repeat_interleave(group, 1).mT * scale
    if softcap is not None:
        scores_BHTS = torch.tanh(scores_BHTS / softcap) * softcap
    if causal:
        mask = torch.ones(scores_BHTS.shape[-2:], dtype=torch.bool, device=scores_BHTS.device).tril()
    if mask is not None:
        scores_BHTS = scores_BHTS.masked_fill(~mask, torch.finfo(scores_BHTS.dtype).min)
    if sinks_H is not None:
        sinks_BHT1 = sinks_H[None, :, None, None].to(scores_BHTS.dtype).expand(*scores_BHTS.shape[:3], 1)
        scores_BHTS = torch.cat([scores_BHTS, sinks_BHT1], -1)
    weights_BHTS = scores_BHTS.softmax(-1, dtype=torch.float32)[..., : key_BKSD.shape[2]].to(value_BKSD.dtype)
    return functional.dropout(weights_BHTS, dropout) @ value_BKSD.repeat_interleave(group, 1)
