"""Which strategy a run has, and the group of processes that it starts with.

Nothing is left to accelerate's defaults and environment, and as it drops a plugin without a word where it thinks that it does not fit,
what came out is checked.
"""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin, DistributedType, InitProcessGroupKwargs
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from axolotl_core import world
from axolotl_core.distributed import ddp, environment
from axolotl_core.distributed.layers import class_names
from axolotl_core.distributed.strategy import Strategy
from axolotl_core.errors import MachineError
from axolotl_core.models.precision import Precision
from axolotl_core.params.machine import Machine
from axolotl_core.params.sharding import deepspeed_of, fsdp_of

DEFAULT_TIMEOUT_S = 1800
BACKENDS = {"cpu": "gloo", "cuda": "cuda:nccl,cpu:gloo"}
"""Of torch.distributed, by the type of device; a GPU's processes exchange what is offloaded to the machine's memory too."""


def start_strategy(
    machine: Machine, precision: Precision, root: Path, *, device: torch.device, max_grad_norm: float, model: Any
) -> Strategy:
    """model: one like it, for its layers' class and its width; nothing else is asked of it. Raises MachineError, ParamsError."""
    notes = environment.clear()
    if fsdp := fsdp_of(machine):
        from axolotl_core.distributed.fsdp import FSDP

        class_names(model, fsdp.layers)
        return FSDP(_accelerator(machine, device), precision, max_grad_norm, notes, fsdp)
    if deepspeed := deepspeed_of(machine, root):
        from axolotl_core.distributed.deepspeed import DeepSpeed
        from axolotl_core.distributed.deepspeed import plugin as deepspeed_plugin

        settings, unused = deepspeed
        if device.type == "cpu":  # accelerate and DeepSpeed look for an accelerator unless they are told of none
            os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        given = deepspeed_plugin(settings, precision, max_grad_norm, model)
        accelerator = _accelerator(machine, device, given)
        unset_hf_deepspeed_config()  # or transformers would shard each model that it loads from now on
        return DeepSpeed(accelerator, precision, max_grad_norm, [*notes, *unused])
    accelerator = _accelerator(machine, device)
    return (ddp.DDP if accelerator.num_processes > 1 else Strategy)(accelerator, precision, max_grad_norm, notes)


def _accelerator(machine: Machine, device: torch.device, deepspeed: DeepSpeedPlugin | None = None) -> Accelerator:
    """Raises MachineError where accelerate drops DeepSpeed."""
    on_cpu = device.type == "cpu"
    timeout = timedelta(seconds=machine.ddp_timeout or DEFAULT_TIMEOUT_S)
    backend = BACKENDS.get(device.type) if on_cpu or deepspeed is None else None
    handlers = [InitProcessGroupKwargs(backend=backend, timeout=timeout), ddp.settings(machine)]
    found = Accelerator(
        cpu=on_cpu and deepspeed is None,
        mixed_precision="no",  # autocast and the loss scaler are ours
        gradient_accumulation_steps=1,
        kwargs_handlers=handlers if world.launched() else [],
        deepspeed_plugin=deepspeed,
    )
    if deepspeed is not None and found.distributed_type is not DistributedType.DEEPSPEED:
        raise MachineError(
            f"machine.deepspeed was requested, but accelerate runs {found.distributed_type.value} on {device.type}; "
            "deepspeed requires several GPUs, remove it"
        )
    return found
