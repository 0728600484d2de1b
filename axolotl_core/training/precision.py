"""Which number format the forward pass runs in."""

from typing import Literal

import torch

Precision = Literal["bf16", "fp32"]


def choose(bf16: bool | str, device: torch.device) -> Precision:
    """`auto`: bf16 where the accelerator has it. A CPU gets fp32: without AMX bf16 is twenty times slower there."""
    if bf16 == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if bf16 else "fp32"
