"""One process or many: the only file that knows which.

    alone       one process
    ddp         each process has the model, gradients are averaged
    fsdp        weights, gradients and optimizer are cut over the processes (torch's fully_shard, through accelerate)
    deepspeed   ZeRO 1, 2, 3 (through accelerate)

Processes average gradients, so a loss is multiplied by their number first: a step's gradient is the sum over all its rows
divided by all its trained tokens, whoever computed what. accelerate drops a plugin without a word where it thinks that
it does not fit, so what came out is checked.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DeepSpeedPlugin,
    DistributedDataParallelKwargs,
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
)
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from axolotl_core import world
from axolotl_core.errors import MachineError
from axolotl_core.params.machine import Machine
from axolotl_core.params.sharding import Fsdp, deepspeed_of, fsdp_of
from axolotl_core.terminal import say
from axolotl_core.training.batches import Inputs
from axolotl_core.training.precision import Precision

KINDS = {DistributedType.FSDP: "fsdp", DistributedType.DEEPSPEED: "deepspeed"}
DEFAULT_TIMEOUT_S = 1800


class Parallel:
    """`prepare` first; then `backward` for each micro-batch and `step` once a step."""

    def __init__(
        self, machine: Machine, precision: Precision, root: Path, *, device: torch.device, max_grad_norm: float, model: Any
    ) -> None:
        """model: before it is wrapped, for its layers' class and its width. Raises MachineError, ParamsError."""
        self.precision, self.max_grad_norm, self.machine = precision, max_grad_norm, machine
        fsdp, deepspeed = fsdp_of(machine), deepspeed_of(machine, root)
        self.told = deepspeed[1] if deepspeed else []
        plugins: dict[str, Any] = {}
        if fsdp:
            plugins["fsdp_plugin"] = _fsdp_plugin(fsdp, precision, list(fsdp.layers) or sorted(model._no_split_modules or ()))
        if deepspeed:
            plugins["deepspeed_plugin"] = _deepspeed_plugin(deepspeed[0], precision, max_grad_norm, model.config.hidden_size)
        timeout = timedelta(seconds=machine.ddp_timeout or DEFAULT_TIMEOUT_S)
        on_cpu = device.type == "cpu"
        group = InitProcessGroupKwargs(backend="gloo" if on_cpu else None, timeout=timeout)
        if deepspeed and on_cpu:  # accelerate gives DeepSpeed an accelerator unless it is told of none
            os.environ.setdefault("ACCELERATE_TORCH_DEVICE", "cpu")
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        handlers = [group, _ddp(machine)] if world.launched() else []
        self.accelerator = Accelerator(cpu=on_cpu and not deepspeed, kwargs_handlers=handlers, **plugins)
        alone = "ddp" if self.accelerator.num_processes > 1 else "alone"
        self.kind = KINDS.get(self.accelerator.distributed_type, alone)
        wanted = "fsdp" if fsdp else "deepspeed" if deepspeed else alone
        if self.kind != wanted:
            raise MachineError(
                f"machine.{wanted} was asked for, but accelerate runs {self.accelerator.distributed_type.value} on {device.type}; "
                f"{wanted} wants several GPUs, remove it"
            )
        self.flat = self.kind == "fsdp" and fsdp is not None and fsdp.version == 1
        """FSDP 1: a parameter is a piece of a flat one here, and only FSDP itself can tell the whole."""
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        scaled = precision.scaled and self.kind != "deepspeed"
        self.scaler = torch.amp.GradScaler(device.type) if scaled else None

    @property
    def main(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def autocast(self) -> torch.dtype | None:
        """Format of the forward pass; DeepSpeed keeps the weights in it, and its master weights elsewhere."""
        return None if self.kind == "deepspeed" else self.precision.autocast

    def prepare(self, objective: nn.Module, optimizer: Optimizer) -> None:
        """Wrap both. The optimizer's own groups stay the ones whose learning rate is set."""
        self.objective: Any
        self.optimizer: Any
        self.objective, self.optimizer = self.accelerator.prepare(objective, optimizer)

    def parameters(self, *, frozen: bool = False) -> Iterator[tuple[str, nn.Parameter]]:
        """What is trained, under the model's own names, wherever it lies now; tied weights once. frozen: what is not, too."""
        for name, parameter in self.objective.named_parameters():
            if parameter.requires_grad or frozen:
                yield self.plain(name), parameter

    @staticmethod
    def plain(name: str) -> str:
        """The model's own name of a parameter, without those of what it is wrapped in."""
        return name.replace("_fsdp_wrapped_module.", "").removeprefix("module.").removeprefix("model.")

    @contextmanager
    def pass_of(self, last: bool) -> Iterator[None]:
        """Around forward and backward of a micro-batch: DDP exchanges gradients in the last one only.

        FSDP and ZeRO exchange them each time, for otherwise each process would hold the gradients of all weights.
        """
        self.accelerator.gradient_state._set_sync_gradients(last)
        if self.kind == "ddp" and not last:
            with self.accelerator.no_sync(self.objective):
                yield
        else:
            yield

    def backward(self, loss: Tensor) -> None:
        """loss: this process's part of the step's loss."""
        loss = loss * self.world
        self.accelerator.backward(self.scaler.scale(loss) if self.scaler else loss)

    def step(self) -> Tensor:
        """Clip and update; the norm of the gradient before clipping, on the device, over all processes."""
        parameters = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
        most = self.max_grad_norm or float("inf")
        if self.scaler:
            self.scaler.unscale_(self.optimizer.optimizer)
        if self.kind == "fsdp":
            norm = self.accelerator.clip_grad_norm_(self.objective.parameters(), most)
        elif self.kind == "deepspeed":
            norm = self.accelerator.clip_grad_norm_(parameters, most)
        else:
            norm = nn.utils.clip_grad_norm_(parameters, most)
        if self.scaler:
            self.scaler.step(self.optimizer.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        self.optimizer.zero_grad()
        whole = norm.full_tensor() if isinstance(norm, DTensor) else norm
        return torch.as_tensor(0.0 if whole is None else whole, dtype=torch.float32, device=self.device)

    def prime(self, inputs: Inputs) -> None:
        """Make room for an optimizer state that is to be loaded: DeepSpeed has none before its first step, so it gets one
        that changes nothing. inputs: any batch."""
        if self.kind == "deepspeed":
            for group in self.optimizer.param_groups:
                group["lr"] = 0.0
            with self.pass_of(last=True):
                self.backward(self.objective(inputs.untrained()))
            self.step()

    def sum(self, values: Tensor) -> Tensor:
        """Over all processes, in place."""
        if self.world > 1:
            place = values.to(self.device)
            torch.distributed.all_reduce(place)
            values.copy_(place)
        return values

    def any(self, said: bool) -> bool:
        """Whether some process says so. Every process must call this."""
        return said if self.world == 1 else bool(self.sum(torch.tensor([float(said)])).item())

    def share(self, value: str) -> str:
        """What rank 0 says."""
        said = [value]
        if self.world > 1:
            torch.distributed.broadcast_object_list(said, src=0)
        return said[0]

    def wait(self) -> None:
        """For all processes."""
        self.accelerator.wait_for_everyone()

    def say(self, told: str) -> None:
        """One line, from one process."""
        if self.main:
            say(f"  {told}")

    def close(self) -> None:
        """Leave the group of processes; a later run in this process starts afresh."""
        self.accelerator.free_memory()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _ddp(machine: Machine) -> DistributedDataParallelKwargs:
    settings: dict[str, Any] = {"find_unused_parameters": False, "gradient_as_bucket_view": True}
    if machine.ddp_bucket_cap_mb is not None:
        settings["bucket_cap_mb"] = machine.ddp_bucket_cap_mb
    if machine.ddp_broadcast_buffers is not None:
        settings["broadcast_buffers"] = machine.ddp_broadcast_buffers
    return DistributedDataParallelKwargs(**settings)


def _fsdp_plugin(fsdp: Fsdp, precision: Precision, layers: list[str]) -> FullyShardedDataParallelPlugin:
    """Gradients are summed in fp32 whatever the forward pass runs in."""
    if precision.scaled:
        raise MachineError("machine.fsdp does not go with training.fp16, whose loss scaler it has no part in; use bf16")
    common: dict[str, Any] = {
        "fsdp_version": fsdp.version,
        "cpu_offload": fsdp.offload,
        "auto_wrap_policy": "transformer_based_wrap" if layers else "no_wrap",
        "transformer_cls_names_to_wrap": layers or None,
        "state_dict_type": "FULL_STATE_DICT",
        "cpu_ram_efficient_loading": False,
    }
    if fsdp.version == 2:
        return FullyShardedDataParallelPlugin(reshard_after_forward=fsdp.reshard, **common)
    strategy = "FULL_SHARD" if fsdp.reshard else "SHARD_GRAD_OP"
    return FullyShardedDataParallelPlugin(sharding_strategy=strategy, use_orig_params=True, sync_module_states=False, **common)


def _deepspeed_plugin(settings: dict[str, Any], precision: Precision, max_grad_norm: float, width: int) -> DeepSpeedPlugin:
    """Every `auto` is replaced: bucket sizes by the model's width, as transformers does, the rest by params.yaml."""
    zero = dict(settings["zero_optimization"])
    sizes = {
        "reduce_bucket_size": width * width,
        "stage3_prefetch_bucket_size": int(0.9 * width * width),
        "stage3_param_persistence_threshold": 10 * width,
    }
    zero |= {key: size for key, size in sizes.items() if zero.get(key) == "auto"}
    config = {
        **settings,
        "zero_optimization": zero,
        "bf16": {"enabled": torch.bfloat16 in (precision.autocast, precision.trained)},
        "fp16": {**settings.get("fp16", {}), "enabled": precision.scaled},
        "gradient_clipping": max_grad_norm,
        "gradient_accumulation_steps": 1,
        "train_micro_batch_size_per_gpu": 1,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    try:
        return DeepSpeedPlugin(hf_ds_config=config, zero3_init_flag=False)
    except ImportError as error:
        raise MachineError(f"machine.deepspeed: the package is missing ({error}); pip install 'axolotl[deepspeed]'") from None
