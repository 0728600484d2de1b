"""Parameter groups, the learning rate of a step, and resetting an optimizer's state."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from axolotl_core.params.adapter import Adapter
from axolotl_core.params.training import Training

Groups = list[dict[str, Any]]
EMBEDDING_LR = 1e-6
"""Learning rate of LoRA+ for updates of embeddings (Hayou et al. 2024, arXiv 2402.12354)."""


def parameter_groups(named: Iterable[tuple[str, Parameter]], training: Training, adapter: Adapter) -> Groups:
    """Groups of the parameters that require a gradient.

    No weight decay on norms and biases (one dimension) unless training.decay_norms_and_biases; with LoRA+ the B matrices
    have a learning rate of their own. A group's `lr_multiplier` is its part of the schedule's learning rate.
    """
    groups: dict[tuple[float, float], list[Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            decay = training.weight_decay if parameter.ndim > 1 or training.decay_norms_and_biases else 0.0
            groups.setdefault((decay, _lr_multiplier(name, training, adapter)), []).append(parameter)
    return [
        {"params": params, "weight_decay": decay, "lr": training.learning_rate * multiplier, "lr_multiplier": multiplier}
        for (decay, multiplier), params in groups.items()
    ]


def _lr_multiplier(name: str, training: Training, adapter: Adapter) -> float:
    if adapter.loraplus_lr_ratio is None:
        return 1.0
    if "lora_embedding_" in name:
        return (adapter.loraplus_lr_embedding or EMBEDDING_LR) / training.learning_rate
    return adapter.loraplus_lr_ratio if "lora_B" in name else 1.0


def set_lr_and_betas(optimizer: Optimizer, learning_rate: float, momentum: float | None) -> None:
    """Learning rate of the coming step, and Adam's first beta where the schedule moves it."""
    for group in optimizer.param_groups:
        rate = learning_rate * group["lr_multiplier"]
        if isinstance(group["lr"], torch.Tensor):  # torchao's update is compiled, a number would compile it anew
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
        if momentum is not None and "betas" in group:
            group["betas"] = (momentum, group["betas"][1])


def reset_state(optimizer: Optimizer, parameters: Iterable[Parameter], keep: float) -> None:
    """Reset the state of these parameters (keep 0), or prune it to the `keep` largest share of each tensor by magnitude.

    ReLoRA's pruning: Lialin et al. 2023, arXiv 2307.05695, section 3. Step counters go with a reset and stay with a pruning.
    """
    for parameter in parameters:
        state: Mapping[str, Any] = optimizer.state.get(parameter, {})
        if keep == 0:
            optimizer.state.pop(parameter, None)
            continue
        for name, tensor in state.items():
            if isinstance(tensor, torch.Tensor) and tensor.shape == parameter.shape and tensor.is_floating_point():
                count = max(1, round(tensor.numel() * keep))
                least = tensor.abs().flatten().kthvalue(tensor.numel() - count + 1).values
                state[name].mul_(tensor.abs() >= least)
