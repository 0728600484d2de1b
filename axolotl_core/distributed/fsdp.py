"""Fully sharded data parallel (torch's fully_shard, "FSDP 2"): weights, gradients and optimizer state are sharded over the processes.

torch's own API in the place of accelerate's: it runs on a CPU too, and a module is sharded as soon as it has its weights, so that a
process never holds more than its part and one layer. Under autocast weights are gathered in its dtype, so that no copy of gathered
weights is kept for the backward pass; gradients are reduced in fp32. HYBRID_SHARD shards over the processes of each machine.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from axolotl_core import world
from axolotl_core.distributed.layers import layers
from axolotl_core.distributed.optimizer_state import full_tensor
from axolotl_core.distributed.strategy import Strategy
from axolotl_core.models.precision import Precision
from axolotl_core.models.skeleton import BaseWeights
from axolotl_core.params.sharding import Fsdp


class FSDP(Strategy):
    """Parameters are DTensors."""

    name = "fsdp"
    can_generate = False
    shards_weights = True
    shards_state = True

    def __init__(self, accelerator: Accelerator, precision: Precision, max_grad_norm: float, notes: Sequence[str], fsdp: Fsdp) -> None:
        super().__init__(accelerator, precision, max_grad_norm, notes)
        self.fsdp = fsdp
        if not torch.distributed.is_initialized():  # a group of one
            torch.distributed.init_process_group(store=torch.distributed.HashStore(), rank=0, world_size=1)
        sizes: list[Any] = [1] * self.ranks
        if fsdp.hybrid and self.ranks > 1:
            torch.distributed.all_gather_object(sizes, world.local_size(), group=self.patient)
        alike = len(set(sizes)) == 1 and sizes[0] > 1 and self.ranks % sizes[0] == 0
        self.sharing = sizes[0] if alike else self.ranks
        if fsdp.hybrid and self.ranks > 1 and not alike:
            told = "HYBRID_SHARD requires as many processes on each machine, and more than one; all processes share one model"
            self.notes = [*notes, f"machine.fsdp_config: {told}"]

    def mesh(self) -> DeviceMesh:
        """All processes, or machines × processes of each: the model is sharded over the last dimension, and the same along the first."""
        if self.sharded_over == self.ranks:
            return init_device_mesh(self.device.type, (self.ranks,))
        return init_device_mesh(
            self.device.type, (self.ranks // self.sharded_over, self.sharded_over), mesh_dim_names=("replicate", "shard")
        )

    @property
    def sharded_over(self) -> int:
        return self.sharing

    @property
    def writes(self) -> bool:
        return self.rank < self.sharded_over  # the first machine

    def prepare(self, objective: nn.Module, make_optimizer: Callable[[], Optimizer], weights: BaseWeights | None = None) -> None:
        on_gpu = self.device.type == "cuda"
        settings: dict[str, Any] = {
            "mesh": self.mesh(),
            "reshard_after_forward": self.fsdp.reshard,
            "mp_policy": MixedPrecisionPolicy(self.precision.autocast, torch.float32, cast_forward_inputs=False),
            "offload_policy": CPUOffloadPolicy(pin_memory=on_gpu) if self.fsdp.offload else OffloadPolicy(),
        }
        model: Any = objective.model
        for name, module in (*layers(model, self.fsdp.layers), ("", model)):
            if weights:
                weights.fill(module, name, self.device)
            fully_shard(objective if module is model else module, **settings)
        if weights:
            weights.end()
        self.objective, self.optimizer = objective, make_optimizer()

    def clip(self, max_norm: float) -> Any:
        norm = super().clip(max_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def parameters(self, *, frozen: bool = False) -> Iterator[tuple[str, nn.Parameter]]:
        for module in self.objective.modules():  # with shard_grad_op weights stay gathered after a pass without a backward one
            if isinstance(module, FSDPModule):
                module.reshard()
        yield from super().parameters(frozen=frozen)

    def full_weight(self, parameter: nn.Parameter) -> Tensor:
        full: Tensor = full_tensor(parameter)
        return full

    def local_range(self, parameter: nn.Parameter) -> tuple[int, int]:
        assert isinstance(parameter, DTensor)
        (rows,) = parameter.__create_chunk_list__()
        return rows.offsets[0] * math.prod(parameter.shape[1:]), math.prod(rows.sizes)

    def local_numbers(self, tensor: Tensor) -> Tensor:
        assert isinstance(tensor, DTensor)
        return tensor.detach().to_local().reshape(-1)

    def placed(self, parameter: nn.Parameter, numbers: Tensor) -> Tensor:
        assert isinstance(parameter, DTensor)
        rows = numbers.view(parameter.to_local().shape).to(parameter.device)
        return DTensor.from_local(
            rows, parameter.device_mesh, parameter.placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
        )
