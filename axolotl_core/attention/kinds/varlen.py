"""Attention within samples by their lengths, with nothing but torch: on a GPU its flash kernel for sequences of varying length
(`torch.nn.attention.varlen`), elsewhere sdpa sample by sample.
"""

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

from axolotl_core.attention.by_sample import attend_by_sample, attend_masked
from axolotl_core.attention.flash import flash_inputs, forward_dtype, lacks
from axolotl_core.attention.laid import Laid
from axolotl_core.attention.mask import mask_unless_packed
from axolotl_core.attention.need import Need

OPTION = None
PREFERENCE = 40
OPERATORS: tuple[str, ...] = ("_varlen_attn", "scaled_dot_product")


def fits(need: Need) -> str | None:
    """Models that pass on where samples end; on a GPU as flash attention 2, without soft caps, sinks and dropout."""
    if need.device.type != "cuda":
        if not need.by_interface:
            return need.not_by_interface
        return "samples are cut into chunks" if need.chunk else None
    if reason := lacks(need, package=None, least=(8, 0)):
        return reason
    if kernel() is None:
        return "this version of torch has no attention for sequences of varying length with windows"
    return "it has no soft caps, sinks or dropout on a GPU" if need.soft_cap or need.sinks or need.dropout else None


@cache
def kernel() -> Any | None:
    """torch's varlen_attn, None where it is not there or knows no windows."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "window_size" in parameters_of(varlen_attn) else None


@cache
def parameters_of(function: Any) -> frozenset[str]:
    """Names of a function's parameters; versions of torch differ in them."""
    return frozenset(inspect.signature(function).parameters)


def inputs(laid: Laid) -> dict[str, Any]:
    """Ends of the samples, on the CPU where a loop in Python reads them."""
    if laid.positions_BT.device.type == "cuda":
        return flash_inputs(laid)
    ends = torch.tensor([0, *laid.sequences.lengths]).cumsum(0)
    return flash_inputs(laid._replace(sequences=laid.sequences._replace(cu_seqlens=ends)))


def attention(
    module: Any,
    query_BHTD: Tensor,
    key_BKTD: Tensor,
    value_BKTD: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """(B, T, H, D), as transformers' AttentionInterface calls it: with ends of samples, or for replies with a mask."""
    shaped: dict[str, Any] = {"scaling": scaling, "dropout": dropout, "softcap": softcap, "sinks_H": s_aux}
    if cu_seq_lens_q is None:
        return attend_masked(query_BHTD, key_BKTD, value_BKTD, attention_mask, **shaped), None
    if query_BHTD.device.type == "cuda":
        return _flash(query_BHTD, key_BKTD, value_BKTD, cu_seq_lens_q, int(max_length_q or 0), scaling, sliding_window), None
    return _by_sample(query_BHTD, key_BKTD, value_BKTD, cu_seq_lens_q, sliding_window=sliding_window, **shaped), None


@torch.compiler.disable
def _by_sample(query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, cu_seqlens: Tensor, **shaped: Any) -> Tensor:
    """A loop over lengths, which would be compiled once for each batch."""
    return attend_by_sample(query_BHTD, key_BKTD, value_BKTD, cu_seqlens.diff().tolist(), **shaped)


def _flash(
    query_BHTD: Tensor,
    key_BKTD: Tensor,
    value_BKTD: Tensor,
    cu_seqlens: Tensor,
    longest: int,
    scaling: float | None,
    sliding_window: int | None,
) -> Tensor:
    """torch's kernel, which wants 16 bits and one head size that is a multiple of 8."""
    varlen_attn = kernel()
    assert varlen_attn is not None
    rows, heads, tokens, features = query_BHTD.shape
    scaling = features**-0.5 if scaling is None else scaling
    width = value_BKTD.shape[-1]
    room = -(-max(features, width) // 8) * 8
    dtype = forward_dtype(query_BHTD)
    grouped = "enable_gqa" in parameters_of(varlen_attn)
    if not grouped:  # torch 2.11
        key_BKTD, value_BKTD = (states.repeat_interleave(heads // states.shape[1], 1) for states in (key_BKTD, value_BKTD))
    query, key, value = (
        functional.pad(states.to(dtype), [0, room - states.shape[-1]]).transpose(1, 2).flatten(0, 1)
        for states in (query_BHTD, key_BKTD, value_BKTD)
    )
    out = varlen_attn(
        query,
        key,
        value,
        cu_seqlens,
        cu_seqlens,
        longest,
        longest,
        scale=scaling,
        window_size=(sliding_window - 1 if sliding_window else -1, 0),
        **({"enable_gqa": True} if grouped else {}),
    )
    _in_fixed_order(out)
    return out[..., :width].view(rows, tokens, heads, width)


def _in_fixed_order(out: Tensor) -> None:
    """Let the kernel's backward pass add up in a fixed order, so that a resumed run ends with the same bytes; warn_only would let it off.

    Not within torch.compile, where the backward pass is another node, which was compiled for one of the two.
    """
    if torch.compiler.is_compiling() or (node := out.grad_fn) is None:
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    node.register_prehook(lambda *_: torch.use_deterministic_algorithms(True))
    node.register_hook(lambda *_: torch.use_deterministic_algorithms(before[0], warn_only=before[1]))


AttentionInterface.register("varlen", attention)
AttentionMaskInterface.register("varlen", mask_unless_packed)
