"""Optimizers by name. To add one is to add an entry.

The names are those of Hugging Face. Adam's betas and epsilon go to the Adam family and to Lion (betas); `adafactor`
runs with the learning rate of the schedule, as transformers' Trainer does.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import SGD, Adagrad, AdamW, Optimizer

from axolotl_core.errors import MachineError
from axolotl_core.params.adapter import Adapter
from axolotl_core.params.training import Training

Groups = list[dict[str, Any]]
EMBEDDING_LR = 1e-6
"""Learning rate of LoRA+ for updates of embeddings (Hayou et al. 2024, arXiv 2402.12354)."""


def _adam(training: Training) -> dict[str, Any]:
    return {"lr": training.learning_rate, "betas": (training.adam_beta1, training.adam_beta2), "eps": training.adam_epsilon}


def _bitsandbytes(name: str, **more: Any) -> Callable[[Groups, Training], Optimizer]:
    def make(groups: Groups, training: Training) -> Optimizer:
        settings = _adam(training)
        if "Lion" in name:
            del settings["eps"]
        optimizer: Optimizer = getattr(_library().optim, name)(groups, **settings, **more)
        return optimizer

    return make


def _torchao(name: str) -> Callable[[Groups, Training], Optimizer]:
    def make(groups: Groups, training: Training) -> Optimizer:
        try:
            import torchao.optim
        except ImportError as error:
            raise MachineError(f"training.optimizer: torchao is missing ({error}); pip install 'axolotl[torchao]'") from None
        optimizer: Optimizer = getattr(torchao.optim, name)(groups, **_adam(training))
        return optimizer

    return make


def _library() -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise MachineError(f"training.optimizer: bitsandbytes is missing ({error}); pip install 'axolotl[bitsandbytes]'") from None
    return bitsandbytes


def _adafactor(groups: Groups, training: Training) -> Optimizer:
    from transformers.optimization import Adafactor

    return Adafactor(groups, lr=training.learning_rate, scale_parameter=False, relative_step=False)


OPTIMIZERS: dict[str, Callable[[Groups, Training], Optimizer]] = {
    "adamw_torch": lambda groups, training: AdamW(groups, **_adam(training)),
    "adamw_torch_fused": lambda groups, training: AdamW(groups, **_adam(training), fused=True),
    "adafactor": _adafactor,
    "sgd": lambda groups, training: SGD(groups, lr=training.learning_rate),
    "adagrad": lambda groups, training: Adagrad(groups, lr=training.learning_rate),
    "adamw_torch_8bit": _torchao("AdamW8bit"),
    "adamw_torch_4bit": _torchao("AdamW4bit"),
    "adamw_bnb_8bit": _bitsandbytes("AdamW8bit"),
    "paged_adamw_32bit": _bitsandbytes("PagedAdamW32bit"),
    "paged_adamw_8bit": _bitsandbytes("PagedAdamW8bit"),
    "lion_32bit": _bitsandbytes("Lion32bit"),
    "lion_8bit": _bitsandbytes("Lion8bit"),
    "paged_lion_32bit": _bitsandbytes("PagedLion32bit"),
    "paged_lion_8bit": _bitsandbytes("PagedLion8bit"),
}


def make_optimizer(named: Iterable[tuple[str, Parameter]], training: Training, adapter: Adapter) -> Optimizer:
    """Optimizer over the parameters that require a gradient.

    No weight decay on norms and biases (one dimension) unless training.decay_norms_and_biases; with LoRA+ the B matrices
    have a learning rate of their own. A group's `share` is its part of the schedule's learning rate.
    Raises MachineError when the optimizer's package is missing.
    """
    groups: dict[tuple[float, float], list[Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            decay = training.weight_decay if parameter.ndim > 1 or training.decay_norms_and_biases else 0.0
            groups.setdefault((decay, _share(name, training, adapter)), []).append(parameter)
    listed = [
        {"params": params, "weight_decay": decay, "lr": training.learning_rate * share, "share": share}
        for (decay, share), params in groups.items()
    ]
    return OPTIMIZERS[training.optimizer](listed, training)


def _share(name: str, training: Training, adapter: Adapter) -> float:
    if adapter.loraplus_lr_ratio is None:
        return 1.0
    if "lora_embedding_" in name:
        return (adapter.loraplus_lr_embedding or EMBEDDING_LR) / training.learning_rate
    return adapter.loraplus_lr_ratio if "lora_B" in name else 1.0


def set_rates(optimizer: Optimizer, learning_rate: float, momentum: float | None) -> None:
    """Learning rate of the coming step, and Adam's first beta where the schedule moves it."""
    for group in optimizer.param_groups:
        rate = learning_rate * group["share"]
        if isinstance(group["lr"], torch.Tensor):  # torchao's update is compiled, a number would compile it anew
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
        if momentum is not None and "betas" in group:
            group["betas"] = (momentum, group["betas"][1])


def forget(optimizer: Optimizer, parameters: Iterable[Parameter], keep: float) -> None:
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
