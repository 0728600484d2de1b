"""Which strategy a run has, and the group of processes that it starts with.

accelerate drops a plugin without a word where it thinks that it does not fit, so what came out is checked.
"""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, InitProcessGroupKwargs

from axolotl_core import world
from axolotl_core.distributed import ddp
from axolotl_core.distributed.strategy import Strategy
from axolotl_core.errors import MachineError
from axolotl_core.models.precision import Precision
from axolotl_core.params.machine import Machine
from axolotl_core.params.sharding import deepspeed_of, fsdp_of

DEFAULT_TIMEOUT_S = 1800


def start_strategy(
    machine: Machine, precision: Precision, root: Path, *, device: torch.device, max_grad_norm: float, model: Any
) -> Strategy:
    """model: before it is wrapped, for its layers' class and its width. Raises MachineError, ParamsError."""
    if fsdp := fsdp_of(machine):
        from axolotl_core.distributed.fsdp import FSDP1, FSDP2, plugin

        accelerator = _accelerator(machine, device, DistributedType.FSDP, fsdp_plugin=plugin(fsdp, precision, model))
        return (FSDP1 if fsdp.version == 1 else FSDP2)(accelerator, precision, max_grad_norm)
    if deepspeed := deepspeed_of(machine, root):
        from axolotl_core.distributed.deepspeed import DeepSpeed
        from axolotl_core.distributed.deepspeed import plugin as deepspeed_plugin

        settings, notes = deepspeed
        if device.type == "cpu":  # accelerate and DeepSpeed look for an accelerator unless they are told of none
            os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        given = deepspeed_plugin(settings, precision, max_grad_norm, model)
        return DeepSpeed(_accelerator(machine, device, DistributedType.DEEPSPEED, deepspeed_plugin=given), precision, max_grad_norm, notes)
    accelerator = _accelerator(machine, device)
    return (ddp.DDP if accelerator.num_processes > 1 else Strategy)(accelerator, precision, max_grad_norm)


def _accelerator(machine: Machine, device: torch.device, kind: DistributedType | None = None, **plugin: Any) -> Accelerator:
    """kind: what must come out, None for any but a sharded one. Raises MachineError where another one does."""
    on_cpu = device.type == "cpu"
    timeout = timedelta(seconds=machine.ddp_timeout or DEFAULT_TIMEOUT_S)
    handlers = [InitProcessGroupKwargs(backend="gloo" if on_cpu else None, timeout=timeout), ddp.settings(machine)]
    found = Accelerator(
        cpu=on_cpu and kind is not DistributedType.DEEPSPEED, kwargs_handlers=handlers if world.launched() else [], **plugin
    )
    came, sharded = found.distributed_type, (DistributedType.FSDP, DistributedType.DEEPSPEED)
    if came is not kind and (kind is not None or came in sharded):
        name = (kind or came).value.lower()
        raise MachineError(
            f"machine.{name} was requested, but accelerate runs {came.value} on {device.type}; {name} requires several GPUs, remove it"
            if kind is not None
            else f"accelerate runs {name}, which params.yaml does not ask for; unset ACCELERATE_USE_{name.upper()}"
        )
    return found
