"""Weights and optimizer state as they are without processes: by the parameter's name, whole, on the CPU of rank 0.

So a checkpoint says nothing of how many processes wrote it, and any number of them goes on from it.

    weights     {"…q_proj.lora_A.default.weight": tensor}
    optimizer   {"…q_proj.lora_A.default.weight": {"exp_avg": tensor, "exp_avg_sq": tensor, "step": tensor}}
"""

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullOptimStateDictConfig, FullStateDictConfig, FullyShardedDataParallel, StateDictType
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from axolotl_core.training.parallel import Parallel

States = dict[str, dict[str, Any]]


def weights(parallel: Parallel, *, frozen: bool = False) -> dict[str, Tensor]:
    """What is trained; frozen: and what is not. Every process must call this."""
    if parallel.flat:
        with FullyShardedDataParallel.summon_full_params(parallel.objective, writeback=False):
            return {name: parameter.detach().cpu().clone() for name, parameter in parallel.parameters(frozen=frozen)}
    return {name: _whole_weight(parallel, parameter).cpu() for name, parameter in parallel.parameters(frozen=frozen)}


def load_weights(parallel: Parallel, saved: dict[str, Tensor]) -> None:
    """`saved` on every process."""
    if parallel.flat:
        with FullyShardedDataParallel.summon_full_params(parallel.objective), torch.no_grad():
            for name, parameter in parallel.parameters():
                parameter.copy_(saved[name])
        return
    if parallel.kind == "deepspeed":
        parallel.objective.empty_partition_cache()  # ZeRO 3 may be fetching weights ahead
    for name, parameter in parallel.parameters():
        _put_weight(parallel, parameter, saved[name])


def optimizer_states(parallel: Parallel) -> States:
    """Of each trained parameter. Every process must call this."""
    if parallel.kind == "deepspeed":
        return {name: _deepspeed_state(parallel, parameter) for name, parameter in parallel.parameters()}
    optimizer = inner(parallel.optimizer)
    if parallel.flat:
        with _whole_states(parallel):
            states = FullyShardedDataParallel.optim_state_dict(parallel.objective, optimizer)["state"]
        return {parallel.plain(name): {key: _whole(value) for key, value in state.items()} for name, state in states.items()}
    found: States = {}
    for name, parameter in parallel.parameters():
        state = optimizer.state.get(parameter, {})
        found[name] = {key: _whole(value) for key, value in state.items()}
    return found


def load_optimizer_states(parallel: Parallel, saved: States) -> None:
    """`saved` on every process."""
    if parallel.kind == "deepspeed":
        for name, parameter in parallel.parameters():
            _put_deepspeed_state(parallel, parameter, saved[name])
        return
    optimizer = inner(parallel.optimizer)
    if parallel.flat:
        with _whole_states(parallel):
            document = FullyShardedDataParallel.optim_state_dict(parallel.objective, optimizer)
            document["state"] = {name: saved[parallel.plain(name)] for name in document["state"] or _trained(parallel)}
            optimizer.load_state_dict(FullyShardedDataParallel.optim_state_dict_to_load(parallel.objective, optimizer, document))
        return
    states: dict[nn.Parameter, dict[str, Any]] = {p: _cut_like(p, saved[name]) for name, p in parallel.parameters()}
    numbered = [p for group in optimizer.param_groups for p in group["params"]]
    document = {
        "state": {i: states[p] for i, p in enumerate(numbered) if states[p]},
        "param_groups": optimizer.state_dict()["param_groups"],
    }
    optimizer.load_state_dict(document)
    _keep_dtypes(optimizer, states)
    _page(optimizer)


def _trained(parallel: Parallel) -> list[str]:
    """FSDP's names of what is trained."""
    return [name.replace("_fsdp_wrapped_module.", "") for name, p in parallel.objective.named_parameters() if p.requires_grad]


def _whole_states(parallel: Parallel) -> Any:
    """In this block FSDP 1 gives and takes whole states, on every process."""
    return FullyShardedDataParallel.state_dict_type(
        parallel.objective,
        StateDictType.FULL_STATE_DICT,
        FullStateDictConfig(rank0_only=False),
        FullOptimStateDictConfig(rank0_only=False),
    )


def inner(optimizer: Any) -> Any:
    """The optimizer inside accelerate's and DeepSpeed's wrappers."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def _whole(value: Any) -> Any:
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _cut_like(parameter: nn.Parameter, state: dict[str, Any]) -> dict[str, Any]:
    """State tensors of the parameter's shape are cut as the parameter is; each parameter has its own step counter."""
    state = {key: _copied(value) if isinstance(value, Tensor) else value for key, value in state.items()}
    if not isinstance(parameter, DTensor):
        return state
    cut = {}
    for key, value in state.items():
        fits = isinstance(value, Tensor) and value.shape == parameter.shape
        cut[key] = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements) if fits else value
    return cut


def _copied(value: Tensor) -> Tensor:
    """torchao's quantised states are tensors of a class of their own, which knows no clone."""
    if isinstance(value, DTensor) or not hasattr(value, "__tensor_flatten__"):
        return value.clone()
    names, context = value.__tensor_flatten__()
    inner_tensors = {name: getattr(value, name).clone() for name in names}
    copied: Tensor = type(value).__tensor_unflatten__(inner_tensors, context, None, None)  # type: ignore[attr-defined]
    return copied


def _keep_dtypes(optimizer: Optimizer, states: dict[nn.Parameter, dict[str, Any]]) -> None:
    """torch loads a state in the dtype of its parameter, and adafactor's is fp32 beside weights of bf16."""
    for parameter, state in states.items():
        for key, value in state.items():
            has = optimizer.state[parameter].get(key)
            if isinstance(has, Tensor) and isinstance(value, Tensor) and has.dtype != value.dtype:
                optimizer.state[parameter][key] = value.to(has.device)


def _page(optimizer: Optimizer) -> None:
    """bitsandbytes loads the state of a paged optimizer into the GPU's memory; put it back where it can be paged out."""
    if not getattr(optimizer, "is_paged", False):
        return
    for parameter, state in optimizer.state.items():
        for key in ("state1", "state2"):
            if key in state:
                paged = optimizer.get_state_buffer(parameter, dtype=state[key].dtype)  # type: ignore[attr-defined]
                state[key] = paged.copy_(state[key])


def _whole_weight(parallel: Parallel, parameter: nn.Parameter) -> Tensor:
    if parallel.kind == "deepspeed":
        from deepspeed.utils import safe_get_full_fp32_param

        whole = safe_get_full_fp32_param(parameter)
        return parameter.detach() if whole is None else whole.detach()
    tensor: Tensor = _whole(parameter)
    return tensor


def _put_weight(parallel: Parallel, parameter: nn.Parameter, saved: Tensor) -> None:
    with torch.no_grad():
        if parallel.kind == "deepspeed":
            from deepspeed.utils import safe_set_full_fp32_param

            safe_set_full_fp32_param(parameter, saved.to(parallel.device, torch.float32))  # the master weights
            with _gathered(parameter):
                parameter.copy_(saved)
        elif isinstance(parameter, DTensor):
            parameter.copy_(distribute_tensor(saved.to(parameter.device), parameter.device_mesh, parameter.placements))
        else:
            parameter.copy_(saved)


def _gathered(parameter: nn.Parameter) -> Any:
    """The parameter is whole in this block and cut again after it, as rank 0 has changed it: ZeRO 3 only."""
    if not hasattr(parameter, "ds_id"):
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)


def _deepspeed_state(parallel: Parallel, parameter: nn.Parameter) -> dict[str, Any]:
    from deepspeed.utils import safe_get_full_optimizer_state

    found: dict[str, Any] = {}
    for state in inner(parallel.optimizer).state.values():
        for key, value in state.items():
            if key == "step":
                found[key] = _whole(value)
            elif key not in found:
                whole = safe_get_full_optimizer_state(parameter, key)
                if whole is not None:
                    found[key] = _whole(whole).view(parameter.ds_shape if hasattr(parameter, "ds_id") else parameter.shape)
    return found


def _put_deepspeed_state(parallel: Parallel, parameter: nn.Parameter, saved: dict[str, Any]) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state

    for key, value in saved.items():
        if key != "step":
            safe_set_full_optimizer_state(parameter, value.to(parallel.device, torch.float32), key)
            continue
        for state in inner(parallel.optimizer).state.values():
            if isinstance(state.get("step"), Tensor):
                state["step"].copy_(value)
            else:
                state["step"] = value
