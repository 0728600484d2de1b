"""Fully sharded data parallel: weights, gradients and optimizer state are sharded over the processes, through accelerate."""

from typing import Any

import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.fsdp import FullOptimStateDictConfig, FullStateDictConfig, FullyShardedDataParallel, StateDictType
from torch.distributed.tensor import DTensor, distribute_tensor

from axolotl_core.distributed.optimizer_state import full_tensor, plain_state, unwrap_optimizer
from axolotl_core.distributed.strategy import OptimizerStates, Strategy
from axolotl_core.errors import MachineError
from axolotl_core.models.precision import Precision
from axolotl_core.params.sharding import Fsdp


class FSDP2(Strategy):
    """torch's fully_shard: parameters are DTensors."""

    name = "fsdp"
    can_generate = False

    def clip(self, max_norm: float) -> Any:
        norm = self.accelerator.clip_grad_norm_(self.objective.parameters(), max_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def full_weight(self, parameter: nn.Parameter) -> Tensor:
        full: Tensor = full_tensor(parameter)
        return full

    def load_full_weight(self, parameter: nn.Parameter, saved: Tensor) -> None:
        if isinstance(parameter, DTensor):
            saved = distribute_tensor(saved.to(parameter.device), parameter.device_mesh, parameter.placements)
        parameter.copy_(saved)


class FSDP1(FSDP2):
    """torch's FullyShardedDataParallel: a parameter is a part of a flat one, and only FSDP itself can gather it."""

    def full_weights(self, *, frozen: bool = False) -> dict[str, Tensor]:
        with FullyShardedDataParallel.summon_full_params(self.objective, writeback=False):
            return {name: parameter.detach().cpu().clone() for name, parameter in self.parameters(frozen=frozen)}

    def load_full_weights(self, saved: dict[str, Tensor]) -> None:
        with FullyShardedDataParallel.summon_full_params(self.objective), torch.no_grad():
            for name, parameter in self.parameters():
                parameter.copy_(saved[name])

    def full_optimizer_states(self) -> OptimizerStates:
        with self._full_states():
            states = FullyShardedDataParallel.optim_state_dict(self.objective, unwrap_optimizer(self.optimizer))["state"]
        return {self.plain_name(name): plain_state(state) for name, state in states.items()}

    def load_full_optimizer_states(self, saved: OptimizerStates) -> None:
        optimizer = unwrap_optimizer(self.optimizer)
        with self._full_states():
            document = FullyShardedDataParallel.optim_state_dict(self.objective, optimizer)
            document["state"] = {name: saved[self.plain_name(name)] for name in document["state"] or self._trained()}
            optimizer.load_state_dict(FullyShardedDataParallel.optim_state_dict_to_load(self.objective, optimizer, document))

    def _trained(self) -> list[str]:
        """FSDP's names of what is trained."""
        return [name.replace("_fsdp_wrapped_module.", "") for name, p in self.objective.named_parameters() if p.requires_grad]

    def _full_states(self) -> Any:
        """In this block FSDP gives and takes full states, on every process."""
        return FullyShardedDataParallel.state_dict_type(
            self.objective,
            StateDictType.FULL_STATE_DICT,
            FullStateDictConfig(rank0_only=False),
            FullOptimStateDictConfig(rank0_only=False),
        )


def plugin(fsdp: Fsdp, precision: Precision, model: Any) -> FullyShardedDataParallelPlugin:
    """accelerate's settings. model: before it is wrapped, for its layers' class. Gradients are summed in fp32.

    Raises MachineError for fp16.
    """
    if precision.scaled:
        raise MachineError("machine.fsdp is incompatible with training.fp16, whose loss scaler it has no part in; use bf16")
    layers = list(fsdp.layers) or sorted(model._no_split_modules or ())
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
    sharding = "FULL_SHARD" if fsdp.reshard else "SHARD_GRAD_OP"
    return FullyShardedDataParallelPlugin(sharding_strategy=sharding, use_orig_params=True, sync_module_states=False, **common)
