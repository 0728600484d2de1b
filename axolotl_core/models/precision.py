"""Precision: dtypes of the frozen weights, of the trained ones, and of the forward pass.

| option               | frozen   | trained | autocast |
| bf16 (auto on a GPU) | bfloat16 | float32 | bfloat16 |
| fp16                 | float16  | float32 | float16, with a loss scaler |
| bf16: full           | bfloat16 | bfloat16 | no |
| model.bfloat16       | bfloat16 | bfloat16 in a full fine-tune, else float32 | no |
| model.float16        | float16  | float16 in a full fine-tune, else float32 | no |
| none of them         | float32  | float32 | no |

Under autocast the trained weights are master weights in fp32: bf16 has 8 bits, so a step smaller than 1/256 of a weight
would be rounded away.
"""

from dataclasses import dataclass

import torch

from axolotl_core.params.model import Model
from axolotl_core.params.training import Training


@dataclass(frozen=True)
class Precision:
    """One row of the table. `autocast` None: the forward pass runs in the dtype of the weights."""

    name: str
    frozen: torch.dtype
    trained: torch.dtype
    autocast: torch.dtype | None = None

    @property
    def scaled(self) -> bool:
        """Whether gradients of fp16 need a loss scaler, or they would vanish below 6e-8."""
        return self.autocast == torch.float16


def choose(training: Training, model: Model, device: torch.device, *, full: bool) -> Precision:
    """The row of the options; full: all weights are trained.

    `auto`: bf16 where the accelerator has it. A CPU gets fp32: without AMX bf16 is twenty times slower there.
    """
    if training.fp16:
        return Precision("fp16", torch.float16, torch.float32, torch.float16)
    if training.bf16 == "full":
        return Precision("bf16 full", torch.bfloat16, torch.bfloat16)
    for option, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        if getattr(model, option):
            return Precision(option, dtype, dtype if full else torch.float32)
    capable = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if training.bf16 is True or (training.bf16 == "auto" and capable):
        return Precision("bf16", torch.bfloat16, torch.float32, torch.bfloat16)
    return Precision("fp32", torch.float32, torch.float32)
