"""Rows of a batch as attention sees them: positions, samples, and the mask for families that need one.

B rows, T tokens
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from axolotl_core.attention.mask import masks_by_layer
from axolotl_core.attention.sequences import Sequences


class Laid(NamedTuple):
    """How the samples of a batch lie in its rows. method: what keeps them apart in the family where the backend does not
    (`models.packing`).

    dtype, config: of the model.
    """

    positions_BT: Tensor
    sequences: Sequences
    method: Literal["positions", "layers", "mask"]
    dtype: torch.dtype
    config: Any

    def mask_kwargs(self) -> dict[str, Any]:
        """Arguments for a backend that takes a mask: none where transformers builds it from restarting positions."""
        if self.method == "layers":
            return {"attention_mask": masks_by_layer(self.config, self.positions_BT, self.dtype)}
        return {"attention_mask": block_mask(self.positions_BT, self.dtype)} if self.method == "mask" else {}


def block_mask(positions_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask (B, 1, T, T): 0 within a sample and not ahead, the dtype's minimum elsewhere.

    Additive, because a bool mask is silently wrong with eager attention.
    """
    samples_BT = (positions_BT == 0).cumsum(-1)
    same_BTT = samples_BT[:, :, None] == samples_BT[:, None, :]
    seen_BTT = same_BTT & torch.ones_like(same_BTT).tril()
    mask_BTT = torch.zeros(same_BTT.shape, dtype=dtype, device=positions_BT.device)
    return mask_BTT.masked_fill(~seen_BTT, torch.finfo(dtype).min)[:, None]
