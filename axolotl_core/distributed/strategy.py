"""What the training loop asks of the processes that train together; this class is the answer of a single one.

    single      one process                                                                        this file
    ddp         each process has the model, gradients are averaged                                 ddp.py
    fsdp        weights, gradients and optimizer are sharded over the processes                    fsdp.py
    deepspeed   ZeRO 1, 2, 3                                                                       deepspeed.py

Processes average gradients, so a loss is multiplied by their number first: a step's gradient is the sum over all its rows
divided by all its target tokens, whoever computed what.

For a checkpoint each gives the parts that this process has, of tensors under the parameters' own names, so that any strategy with any
number of processes reads what any other one wrote:

    weights/…q_proj.lora_A.default.weight
    optimizer/…q_proj.lora_A.default.weight/exp_avg
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.optim import Optimizer

from axolotl_core.batches.batch import Inputs
from axolotl_core.distributed.failure import FailureWatch
from axolotl_core.distributed.optimizer_state import full_tensor, is_plain, load_state, sharded_like, unwrap_optimizer
from axolotl_core.distributed.sharded_files import Part, ShardedFiles
from axolotl_core.models.precision import Precision
from axolotl_core.models.skeleton import BaseWeights
from axolotl_core.terminal import say

States = dict[str, dict[str, Any]]
"""By parameter and key."""
WEIGHTS, STATES = "weights/", "optimizer/"
PATIENCE = timedelta(hours=6)
"""What rank 0 has to read, write and hash files of any size while the others wait for it."""


class Strategy:
    """`prepare` first; then `backward` for each micro-batch and `step` once a step. notes: sentences for the user."""

    name = "single"
    can_generate = True
    """Whether a process can run the model by itself, outside the common steps."""
    shards_weights = False
    """Whether a model is best given without its weights, which `prepare` reads a module at a time."""
    shards_state = False
    """Whether the optimizer's state, and weights in full precision, are divided among the processes."""

    def __init__(self, accelerator: Accelerator, precision: Precision, max_grad_norm: float, notes: Sequence[str] = ()) -> None:
        self.accelerator, self.precision, self.max_grad_norm, self.notes = accelerator, precision, max_grad_norm, notes
        self.rank, self.ranks = accelerator.process_index, accelerator.num_processes
        self.scaler = torch.amp.GradScaler(self.device.type) if precision.scaled else None
        self.watch = FailureWatch()
        """A block around everything that processes do together: an error in it ends all of them."""
        self.patient = self.patient_group()

    # the group of processes

    @property
    def main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def writes(self) -> bool:
        """Whether this process writes what it has into checkpoints: rank 0 does where each has all of it."""
        return self.main or self.shards_state

    @property
    def sharded_over(self) -> int:
        """How many processes have one copy of what is sharded among them."""
        return self.ranks

    @property
    def sharding(self) -> str:
        """Its name in memory.SHARDINGS."""
        return self.name

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def sum(self, values: Tensor) -> Tensor:
        """Over all processes, in place."""
        if self.ranks > 1:
            place = values.to(self.device)
            torch.distributed.all_reduce(place)
            values.copy_(place)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in some process. Every process must call this."""
        return flag if self.ranks == 1 else bool(self.sum(torch.tensor([float(flag)])).item())

    def broadcast(self, value: str) -> str:
        """The value of rank 0."""
        values = [value]
        if self.ranks > 1:
            torch.distributed.broadcast_object_list(values, src=0, group=self.patient)
        return values[0]

    def wait(self) -> None:
        """For all processes, however long it takes: what hangs is ended by the watch."""
        if self.ranks > 1:
            torch.distributed.barrier(group=self.patient)

    def patient_group(self) -> ProcessGroup | None:
        """A group of all processes, on the CPU, that waits as long as files of any size take; None for one process. Every process must
        call this."""
        return torch.distributed.new_group(backend="gloo", timeout=PATIENCE) if self.ranks > 1 else None

    def print_main(self, line: str) -> None:
        """One line, from one process."""
        if self.main:
            say(f"  {line}")

    def close(self) -> None:
        """Leave the group of processes; a later run in this process starts afresh. After a failure nobody is waited for."""
        self.accelerator.free_memory()
        self.watch.stop()
        if self.watch.failed:
            return
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)

    # training

    @property
    def autocast(self) -> torch.dtype | None:
        """Dtype of the forward pass; None: that of the weights."""
        return self.precision.autocast

    def prepare(self, objective: nn.Module, make_optimizer: Callable[[], Optimizer], weights: BaseWeights | None = None) -> None:
        """Wrap the objective, and the optimizer, which is made where the parameters are those that it steps; its own groups stay the
        ones whose learning rate is set. weights: of a model without them, only where `shards_weights`."""
        assert weights is None, "only a strategy that shards weights is given a model without them"
        self.objective: Any
        self.optimizer: Any
        self.objective, self.optimizer = self.accelerator.prepare(objective, make_optimizer())

    def micro_batch(self, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of a micro-batch. last: of this process in the step.

        Sharded strategies exchange gradients each time, for otherwise each process would hold the gradients of all weights.
        """
        self.accelerator.gradient_state._set_sync_gradients(last)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """loss: this process's part of the step's loss."""
        loss = loss * self.ranks
        self.accelerator.backward(self.scaler.scale(loss) if self.scaler else loss)

    def step(self) -> Tensor:
        """Clip and update, unless the norm is not finite; the norm of the gradient before clipping, on the device, over all processes."""
        if self.scaler:
            self.scaler.unscale_(unwrap_optimizer(self.optimizer))
        norm = torch.as_tensor(self.clip(self.max_grad_norm or float("inf")), dtype=torch.float32, device=self.device)
        if self.scaler:
            self.scaler.step(unwrap_optimizer(self.optimizer))
            self.scaler.update()
        else:
            self.update(norm.isfinite())
        self.optimizer.zero_grad()
        return norm

    def update(self, finite: Tensor) -> None:
        """Step the optimizer if the gradients are finite (a flag on the device). A fused one reads the flag there, as a loss scaler has
        it read; for any other the device is waited for."""
        optimizer = unwrap_optimizer(self.optimizer)
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            where = next(parameter.device for _, parameter in self.parameters())  # of offloaded ones the machine's memory
            optimizer.grad_scale, optimizer.found_inf = None, (~finite).float().to(where)
            self.optimizer.step()
        elif finite:
            self.optimizer.step()

    def clip(self, max_norm: float) -> Any:
        """Scale gradients down to this norm; the norm before."""
        return nn.utils.clip_grad_norm_([parameter for _, parameter in self.parameters()], max_norm)

    # weights and optimizer state

    def parameters(self, *, frozen: bool = False) -> Iterator[tuple[str, nn.Parameter]]:
        """What is trained, under the model's own names, wherever it lies now; tied weights once. frozen: what is not, too."""
        for name, parameter in self.objective.named_parameters():
            if parameter.requires_grad or frozen:
                yield self.plain_name(name), parameter

    @staticmethod
    def plain_name(name: str) -> str:
        """The model's own name of a parameter, without those of what it is wrapped in."""
        return name.removeprefix("module.").removeprefix("model.")

    def full_weights(self, *, frozen: bool = False, patient: bool = False) -> Iterator[tuple[str, Tensor]]:
        """What is trained, one by one, on the CPU of rank 0, nothing on the others; frozen: and what is not; patient: before each weight
        the others wait for what rank 0 does with the one before. Every process must iterate to the end."""
        for name, parameter in self.parameters(frozen=frozen):
            if patient:
                self.wait()
            weight = self.full_weight(parameter)
            if self.main:
                yield name, weight.cpu()
            del weight  # before the next is gathered

    def full_weight(self, parameter: nn.Parameter) -> Tensor:
        """Of one parameter, without its gradient."""
        return parameter.detach()

    @torch.no_grad()
    def round_weights(self, dtype: torch.dtype) -> None:
        """Round what is trained to a dtype, in place and in the dtype that it has."""
        for _, parameter in self.parameters():
            parameter.copy_(parameter.to(dtype))

    # checkpoints

    def weight_parts(self) -> dict[str, Part]:
        """What this process writes of what is trained."""
        return {WEIGHTS + name: self.part(parameter, self.local_weight(parameter)) for name, parameter in self.parameters()}

    def state_parts(self) -> tuple[dict[str, Part], States]:
        """What this process writes of the optimizer's state; and the rest of it, which is not plain numbers of the parameter's shape:
        counters, quantised states, on the CPU. Every process must call this."""
        parts: dict[str, Part] = {}
        rest: States = {}
        for name, parameter in self.parameters():
            rest[name] = {}
            for key, value in self.local_state(parameter).items():
                if is_plain(value) and value.shape == parameter.shape:
                    parts[f"{STATES}{name}/{key}"] = self.part(parameter, self.local_numbers(value))
                else:
                    rest[name][key] = full_tensor(value)
        return parts, rest

    def load_weights(self, files: ShardedFiles) -> None:
        """Set what is trained."""
        with torch.no_grad():
            for name, parameter in self.parameters():
                self.set_weight(parameter, files.read(WEIGHTS + name, *self.local_range(parameter)))

    def load_states(self, files: ShardedFiles, rest: States) -> None:
        """Set the optimizer's state."""
        found: dict[nn.Parameter, dict[str, Any]] = {}
        for name, parameter in self.parameters():
            prefix = f"{STATES}{name}/"
            numbers = {key: files.read(prefix + key, *self.local_range(parameter)) for key in files.below(prefix)}
            found[parameter] = sharded_like(parameter, rest[name]) | {key: self.placed(parameter, n) for key, n in numbers.items()}
        load_state(unwrap_optimizer(self.optimizer), found)

    def init_optimizer_state(self, inputs: Inputs) -> None:
        """Make room for an optimizer state that is to be loaded, where that takes a step. inputs: any batch."""

    def part(self, parameter: nn.Parameter, numbers: Tensor) -> Part:
        """numbers: of a tensor of the parameter's shape, those in `local_range`."""
        start, _ = self.local_range(parameter)
        return Part(numbers if self.writes else numbers[:0], start, math.prod(self.shape(parameter)))

    def shape(self, parameter: nn.Parameter) -> torch.Size:
        """Of the whole parameter."""
        return parameter.shape

    def local_range(self, parameter: nn.Parameter) -> tuple[int, int]:
        """What this process has of a flattened parameter, and of its state: where it begins, how many numbers."""
        return 0, parameter.numel()

    def local_numbers(self, tensor: Tensor) -> Tensor:
        """1-D, of a tensor that lies as its parameter does."""
        return tensor.detach().reshape(-1)

    def local_weight(self, parameter: nn.Parameter) -> Tensor:
        """1-D, in full precision where there is more than one."""
        return self.local_numbers(parameter)

    def local_state(self, parameter: nn.Parameter) -> dict[str, Any]:
        """The optimizer's state of a parameter."""
        found: dict[str, Any] = unwrap_optimizer(self.optimizer).state.get(parameter, {})
        return found

    def set_weight(self, parameter: nn.Parameter, numbers: Tensor) -> None:
        """numbers: those in `local_range`."""
        parameter.copy_(self.placed(parameter, numbers))

    def placed(self, parameter: nn.Parameter, numbers: Tensor) -> Tensor:
        """A tensor of the parameter's shape that lies as it does."""
        return numbers.view(parameter.shape).to(parameter.device)
