"""When memory runs out: what it went to, and what to lower by how much."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from axolotl_core.distributed.optimizer_state import unwrap_optimizer
from axolotl_core.distributed.strategy import Strategy
from axolotl_core.errors import MachineError
from axolotl_core.params.machine import Machine
from axolotl_core.params.optimizers import OPTIMIZERS
from axolotl_core.params.training import Training

GIB = 2**30
SIGNS = ("DefaultCPUAllocator", "CUDA error: out of memory", "cudaHostAlloc")
"""Of an error without a class of its own: torch's allocator of the CPU, and of pinned memory."""


@contextmanager
def explained(training: Training, machine: Machine, strategy: Callable[[], Strategy | None]) -> Iterator[None]:
    """Turns an out-of-memory error of torch's, on a GPU or a CPU, into MachineError with advice. strategy: once there is one."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(sign in str(error) for sign in SIGNS):
            raise
        raise MachineError(f"memory ran out: {advice(strategy(), training, machine)}") from None


def advice(strategy: Strategy | None, training: Training, machine: Machine) -> str:
    """What lies in memory, and what would make it less, most effective first."""
    if strategy is None or not hasattr(strategy, "optimizer"):
        return "the base model does not fit; try model.load_in_4bit: true with adapter: qlora, a fourth of the size, or a smaller model"
    weights, gradients, states = sizes(strategy)
    held = f"weights take {weights / GIB:.2f} GiB, gradients {gradients / GIB:.2f}, the optimizer {states / GIB:.2f}"
    remedies = []
    if machine.micro_batch_size > 1:
        remedies.append(f"machine.micro_batch_size: {machine.micro_batch_size // 2} halves what activations take")
    if machine.gradient_checkpointing is True and strategy.device.type == "cuda":
        remedies.append("machine.gradient_checkpointing: offload keeps those vectors in the machine's memory")
    elif machine.gradient_checkpointing in (False, "selective"):
        remedies.append("machine.gradient_checkpointing: true leaves about a layer's activations and one vector a layer and token")
    if states > gradients and not OPTIMIZERS[training.optimizer].eight_bit:
        remedies.append(f"training.optimizer: paged_adamw_8bit saves {states * 3 / 4 / GIB:.2f} GiB")
    if gradients > weights / 2:
        remedies.append(f"adapter.adapter: lora saves about {(gradients + states) / GIB:.2f} GiB")
    if strategy.name == "ddp":
        share = (weights + gradients + states) * (strategy.ranks - 1) / strategy.ranks
        remedies.append(f"machine.fsdp: [full_shard, auto_wrap] saves {share / GIB:.2f} GiB on each of {strategy.ranks} processes")
    remedies.append("packing.sequence_len: half of it halves what activations take")
    return f"{held}; activations take the rest. Try {'; '.join(remedies)}"


def sizes(strategy: Strategy) -> tuple[int, int, int]:
    """Bytes of weights, of gradients, and of the optimizer's state once it is full."""
    parameters = list(strategy.objective.parameters())
    weights = sum(_bytes(p) for p in parameters)
    gradients = sum(_bytes(p) for p in parameters if p.requires_grad)
    states = sum(
        _bytes(v) for state in unwrap_optimizer(strategy.optimizer).state.values() for v in state.values() if isinstance(v, torch.Tensor)
    )
    return weights, gradients, states or 2 * gradients


def _bytes(tensor: torch.Tensor) -> int:
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return local.numel() * local.element_size()
