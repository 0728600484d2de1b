"""Masks for backends that are told where samples end, and whether transformers has to make one.

B rows, T tokens
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import masking_utils
from transformers.masking_utils import create_masks_for_generate, find_packed_sequence_indices, sdpa_mask


def mask_unless_packed(*args: Any, attention_mask: Tensor | None = None, allow_is_causal_skip: bool = True, **kwargs: Any) -> Tensor | None:
    """None for rows of several samples, which transformers finds by their positions; else sdpa's (true where a token may look).

    Called as transformers' AttentionMaskInterface calls it: without attention mask, and with no leave to take plain causal attention,
    for rows of several samples alone. What is neither (replies, with their cache) always gets its mask, so that a backend without ends
    of samples and without a mask knows that it was called wrongly.
    """
    if attention_mask is None and not allow_is_causal_skip:
        return None
    return sdpa_mask(*args, attention_mask=attention_mask, allow_is_causal_skip=False, **kwargs)


def masks_by_layer(config: Any, positions_BT: Tensor, dtype: torch.dtype) -> dict[str, Any]:
    """Type of layer → its mask, of the kind that the model's attention takes, made from restarting positions as transformers makes it."""
    like_embeddings_BTH = torch.empty((), dtype=dtype, device=positions_BT.device).expand(*positions_BT.shape, 1)
    found: dict[str, Any] = create_masks_for_generate(config, like_embeddings_BTH, None, None, position_ids=positions_BT)
    return found


_several: ContextVar[bool | None] = ContextVar("several", default=None)


@contextmanager
def known(several: bool) -> Iterator[None]:
    """Within it a model is run on rows of which this is known: is any of several samples?"""
    token = _several.set(several)
    try:
        yield
    finally:
        _several.reset(token)


def sample_numbers(positions_BT: Tensor) -> Tensor | None:
    """Number of each token's sample in its row (B, T), counted from 0; None where all rows are of one sample.

    transformers asks the device which of the two it is, which waits for all that was begun there, in every step.
    """
    several = None if torch.compiler.is_compiling() else _several.get()
    if several is None:
        found: Tensor | None = find_packed_sequence_indices(positions_BT)
        return found
    return (positions_BT.diff(prepend=positions_BT[:, :1] - 1) != 1).cumsum(-1) if several else None


masking_utils.find_packed_sequence_indices = sample_numbers
