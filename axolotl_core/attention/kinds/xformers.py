"""xformers' memory-efficient attention over blocks on the diagonal."""

from importlib.util import find_spec
from typing import Any

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from axolotl_core.attention.by_sample import attend_masked
from axolotl_core.attention.flash import forward_dtype
from axolotl_core.attention.laid import Laid
from axolotl_core.attention.mask import mask_unless_packed
from axolotl_core.attention.need import Need

OPTION = "xformers_attention"
PREFERENCE = 20
OPERATORS: tuple[str, ...] = ("xformers",)


def fits(need: Need) -> str | None:
    """On a GPU, heads of a multiple of 8 features; windows, but neither soft caps nor sinks."""
    if need.device.type != "cuda":
        return f"it runs on a GPU, not on {need.device.type}"
    if find_spec("xformers") is None:
        return "xformers is not installed; pip install 'axolotl[xformers]'"
    if not need.by_interface:
        return need.not_by_interface
    if need.head_size % 8:
        return f"heads have {need.head_size} features, it wants a multiple of 8"
    if need.soft_cap or need.sinks or need.chunk:
        return "it has no soft caps, sinks or chunks"
    return None


def inputs(laid: Laid) -> dict[str, Any]:
    """The blocks, made once a batch."""
    from xformers.ops.fmha.attn_bias import BlockDiagonalCausalMask

    return {"blocks": BlockDiagonalCausalMask.from_seqlens(laid.sequences.lengths, device=laid.positions_BT.device)}


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
    blocks: Any = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """As transformers' AttentionInterface calls it."""
    if blocks is None:
        return attend_masked(query_BHTD, key_BKTD, value_BKTD, attention_mask, scaling=scaling, dropout=dropout), None
    from xformers.ops import memory_efficient_attention

    rows, heads, tokens, _ = query_BHTD.shape
    group = heads // key_BKTD.shape[1]
    dtype = forward_dtype(query_BHTD)
    query, key, value = (
        states.to(dtype).transpose(1, 2).flatten(0, 1)[None]
        for states in (query_BHTD, key_BKTD.repeat_interleave(group, 1), value_BKTD.repeat_interleave(group, 1))
    )
    bias = blocks.make_local_attention(sliding_window) if sliding_window else blocks
    out = memory_efficient_attention(query, key, value, attn_bias=bias, p=dropout, scale=scaling)
    return out.view(rows, tokens, heads, -1), None


AttentionInterface.register("xformers", attention)
AttentionMaskInterface.register("xformers", mask_unless_packed)
