"""Masks for backends that are told where samples end."""

from typing import Any

from torch import Tensor
from transformers.masking_utils import sdpa_mask


def mask_unless_packed(*args: Any, attention_mask: Tensor | None = None, allow_is_causal_skip: bool = True, **kwargs: Any) -> Tensor | None:
    """None for rows of several samples, which transformers finds by their positions; else sdpa's (true where a token may look).

    Called as transformers' AttentionMaskInterface calls it: without attention mask, and with no leave to take plain causal attention,
    for rows of several samples alone. What is neither (replies, with their cache) always gets its mask, so that a backend without ends
    of samples and without a mask knows that it was called wrongly.
    """
    if attention_mask is None and not allow_is_causal_skip:
        return None
    return sdpa_mask(*args, attention_mask=attention_mask, allow_is_causal_skip=False, **kwargs)
