"""Where samples begin and end in the rows of a batch, as kernels for sequences of varying length take it.

    2 rows of 6: positions 0 1 2 0 1 0 | 0 1 2 3 0 1  →  lengths 3 2 1 4 2, cu_seqlens 0 3 5 6 10 12

Rows are read one after the other; padding counts as a sample. It is worked out on the CPU, once a batch and not once a layer, so that no
layer asks the device for a number.

B rows, T tokens, S samples
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor


def place(values: Tensor, device: torch.device) -> Tensor:
    """From the CPU onto the device, which is not waited for."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


class Sequences(NamedTuple):
    """cu_seqlens: ends of samples before which there is a 0, (S + 1) int32, on the device; lengths: of each sample, on the CPU."""

    cu_seqlens: Tensor
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, positions_BT: Tensor) -> "Sequences":
        """Of positions that restart with each sample and with each row."""
        starts = (positions_BT.flatten() == 0).nonzero().flatten().cpu()
        cu_seqlens = torch.cat([starts, torch.tensor([positions_BT.numel()])])
        return cls(cu_seqlens.int(), tuple(cu_seqlens.diff().tolist()))

    def placed(self, device: torch.device) -> "Sequences":
        """The same with cu_seqlens on the device."""
        return self._replace(cu_seqlens=place(self.cu_seqlens, device))

    def flash_kwargs(self) -> dict[str, Any]:
        """As transformers' FlashAttentionKwargs name it."""
        longest = max(self.lengths)
        ends = self.cu_seqlens
        return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
