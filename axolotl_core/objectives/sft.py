"""Supervised fine-tuning: a module from a batch to its loss, the one thing that is wrapped for many processes.

Everything a step needs of the weights, the output layer's too, happens inside its forward pass: FSDP and ZeRO gather
weights there and nowhere else.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from axolotl_core.batches.batch import Inputs
from axolotl_core.models.activations import offloaded
from axolotl_core.models.forward import ForwardSpec
from axolotl_core.objectives.cross_entropy import Kernel, loss_sum, token_losses


class Objective(torch.nn.Module):
    """`model` may have an adapter beside it. autocast: dtype of the forward pass, None for that of the weights.

    offload: what is kept for the backward pass goes to the machine's memory. kernel: of the loss.
    """

    def __init__(
        self,
        model: Any,
        spec: ForwardSpec,
        autocast: torch.dtype | None = None,
        neftune_alpha: float | None = None,
        *,
        offload: bool = False,
        kernel: Kernel | None = None,
    ) -> None:
        super().__init__()
        self.model, self.spec, self.autocast, self.offload, self.kernel = model, spec, autocast, offload, kernel
        self.neftune = Neftune(neftune_alpha) if neftune_alpha else None
        if self.neftune:
            model.get_input_embeddings().register_forward_hook(self.neftune)

    def forward(self, inputs: Inputs, per_token: bool = False) -> Any:
        """Σ cross-entropy over target tokens with a gradient; per_token: as `token_losses` gives it."""
        with torch.autocast(inputs.ids_BT.device.type, self.autocast, enabled=self.autocast is not None):
            if per_token:
                return token_losses(self.model, inputs, self.spec)
            if self.neftune:
                self.neftune.positions_BT = inputs.positions_BT
            with offloaded(self.model, inputs.ids_BT.device, inputs.ids_BT.numel()) if self.offload else nullcontext():
                return loss_sum(self.model, inputs, self.spec, self.kernel)


class Neftune:
    """Noise on the embeddings while training: uniform in ±alpha / √(L H) for a sample of L tokens (Jain et al. 2023, arXiv 2310.05914).

    In a packed row each sample has the noise of its own length.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self.positions_BT: Tensor | None = None

    def __call__(self, module: torch.nn.Module, _: tuple[Tensor, ...], states_BTH: Tensor) -> Tensor:
        if not module.training or self.positions_BT is None:
            return states_BTH
        size_BT = self.alpha / (sample_lengths(self.positions_BT) * states_BTH.shape[-1]).sqrt()
        return states_BTH + torch.empty_like(states_BTH).uniform_(-1, 1) * size_BT[:, :, None].to(states_BTH.dtype)


def sample_lengths(positions_BT: Tensor) -> Tensor:
    """For each token the length of its sample: positions 0 1 2 0 1 → 3 3 3 2 2."""
    number_BT = (positions_BT == 0).cumsum(-1)
    counts = torch.zeros(len(number_BT), positions_BT.shape[1] + 1, device=positions_BT.device)
    counts.scatter_add_(1, number_BT, torch.ones_like(counts[:, 1:]))
    return counts.gather(1, number_BT)
