"""Optimizers by name. To add one is to add an entry."""

from collections.abc import Callable, Iterable

import torch
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from axolotl_core.params.training import Training

OPTIMIZERS: dict[str, Callable[[list[dict], Training], Optimizer]] = {
    "adamw_torch": lambda groups, t: AdamW(groups, t.learning_rate, (t.adam_beta1, t.adam_beta2), t.adam_epsilon),
    "adamw_torch_fused": lambda groups, t: AdamW(groups, t.learning_rate, (t.adam_beta1, t.adam_beta2), t.adam_epsilon, fused=True),
}


def make_optimizer(named: Iterable[tuple[str, Parameter]], training: Training) -> Optimizer:
    """Optimizer over the parameters that require a gradient; no weight decay on norms and biases (one dimension)."""
    trained = [p for _, p in named if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[training.optimizer]([group for group in groups if group["params"]], training)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value
