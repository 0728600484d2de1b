"""State of a torch optimizer, a parameter at a time: what is in it, and back into the optimizer."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer


def unwrap_optimizer(optimizer: Any) -> Any:
    """The optimizer inside accelerate's and DeepSpeed's wrappers."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def full_tensor(value: Any) -> Any:
    """A sharded tensor gathered, any tensor on the CPU, any other value as it is."""
    if isinstance(value, DTensor):
        value = value.full_tensor()
    return value.detach().cpu() if isinstance(value, Tensor) else value


def is_plain(value: Any) -> bool:
    """Whether a value is a tensor of numbers, sharded or not, and none of a class of its own, as torchao's quantised states are."""
    return isinstance(value, Tensor) and not hasattr(value.to_local() if isinstance(value, DTensor) else value, "__tensor_flatten__")


def load_state(optimizer: Optimizer, states: Mapping[nn.Parameter, Mapping[str, Any]]) -> None:
    """Give each parameter its state, whose tensors lie as it does."""
    numbered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    document = {
        "state": {i: states[parameter] for i, parameter in enumerate(numbered) if states[parameter]},
        "param_groups": optimizer.state_dict()["param_groups"],
    }
    optimizer.load_state_dict(document)
    _keep_dtypes(optimizer, states)
    _page(optimizer)


def sharded_like(parameter: nn.Parameter, state: Mapping[str, Any]) -> dict[str, Any]:
    """A copy, for each parameter has its own step counter; tensors of a sharded parameter's shape are sharded as it is."""
    own = copied(state)
    if isinstance(parameter, DTensor):
        for key, value in own.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                own[key] = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return own


def copied(state: Mapping[str, Any]) -> dict[str, Any]:
    """With tensors in memory of their own."""
    return {key: _clone(value) if isinstance(value, Tensor) else value for key, value in state.items()}


def _clone(value: Tensor) -> Tensor:
    """torchao's quantised states are tensors of a class of their own, which knows no clone."""
    if isinstance(value, DTensor) or not hasattr(value, "__tensor_flatten__"):
        return value.clone()
    names, context = value.__tensor_flatten__()
    inner_tensors = {name: getattr(value, name).clone() for name in names}
    own: Tensor = type(value).__tensor_unflatten__(inner_tensors, context, None, None)  # type: ignore[attr-defined]
    return own


def _keep_dtypes(optimizer: Optimizer, states: Mapping[nn.Parameter, Mapping[str, Any]]) -> None:
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
