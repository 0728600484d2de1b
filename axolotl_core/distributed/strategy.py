"""What the training loop asks of the processes that train together; this class is the answer of a single one.

    single      one process                                                                        this file
    ddp         each process has the model, gradients are averaged                                 ddp.py
    fsdp        weights, gradients and optimizer are sharded over the processes                    fsdp.py
    deepspeed   ZeRO 1, 2, 3                                                                       deepspeed.py

Processes average gradients, so a loss is multiplied by their number first: a step's gradient is the sum over all its rows
divided by all its target tokens, whoever computed what.

Weights and optimizer state leave a strategy as they are without processes, under the parameters' own names and on the CPU, so that
a checkpoint says nothing of how many processes wrote it:

    weights     {"…q_proj.lora_A.default.weight": tensor}
    optimizer   {"…q_proj.lora_A.default.weight": {"exp_avg": tensor, "exp_avg_sq": tensor, "step": tensor}}
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.optim import Optimizer

from axolotl_core.batches.batch import Inputs
from axolotl_core.distributed.failure import FailureWatch
from axolotl_core.distributed.optimizer_state import load_state, plain_state, unwrap_optimizer
from axolotl_core.models.precision import Precision
from axolotl_core.models.skeleton import BaseWeights
from axolotl_core.terminal import say

OptimizerStates = dict[str, dict[str, Any]]


class Strategy:
    """`prepare` first; then `backward` for each micro-batch and `step` once a step. notes: sentences for the user."""

    name = "single"
    can_generate = True
    """Whether a process can run the model by itself, outside the common steps."""
    shards_weights = False
    """Whether a model is best given without its weights, which `prepare` reads a module at a time."""

    def __init__(self, accelerator: Accelerator, precision: Precision, max_grad_norm: float, notes: Sequence[str] = ()) -> None:
        self.accelerator, self.precision, self.max_grad_norm, self.notes = accelerator, precision, max_grad_norm, notes
        self.rank, self.ranks = accelerator.process_index, accelerator.num_processes
        self.scaler = torch.amp.GradScaler(self.device.type) if precision.scaled else None
        self.watch = FailureWatch()
        """A block around everything that processes do together: an error in it ends all of them."""

    # the group of processes

    @property
    def main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

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
            torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def wait(self) -> None:
        """For all processes."""
        self.accelerator.wait_for_everyone()

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

    # weights and optimizer state without processes

    def parameters(self, *, frozen: bool = False) -> Iterator[tuple[str, nn.Parameter]]:
        """What is trained, under the model's own names, wherever it lies now; tied weights once. frozen: what is not, too."""
        for name, parameter in self.objective.named_parameters():
            if parameter.requires_grad or frozen:
                yield self.plain_name(name), parameter

    @staticmethod
    def plain_name(name: str) -> str:
        """The model's own name of a parameter, without those of what it is wrapped in."""
        return name.removeprefix("module.").removeprefix("model.")

    def full_weights(self, *, frozen: bool = False) -> dict[str, Tensor]:
        """What is trained, on rank 0, nothing on the others; frozen: and what is not. Every process must call this."""
        return self._of_main((name, self.full_weight(parameter)) for name, parameter in self.parameters(frozen=frozen))

    def load_full_weights(self, saved: dict[str, Tensor]) -> None:
        """`saved` on every process."""
        with torch.no_grad():
            for name, parameter in self.parameters():
                self.load_full_weight(parameter, saved[name])

    def full_optimizer_states(self) -> OptimizerStates:
        """Of each trained parameter, on rank 0, nothing on the others. Every process must call this."""
        states = unwrap_optimizer(self.optimizer).state
        return self._of_main((name, plain_state(states.get(parameter, {}))) for name, parameter in self.parameters())

    def _of_main(self, gathered: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        """What is gathered one by one, with tensors on the CPU; the other processes let go of each at once."""
        return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in gathered if self.main}

    @torch.no_grad()
    def round_weights(self, dtype: torch.dtype) -> None:
        """Round what is trained to a dtype, in place and in the dtype that it has."""
        for _, parameter in self.parameters():
            parameter.copy_(parameter.to(dtype))

    def load_full_optimizer_states(self, saved: OptimizerStates) -> None:
        """`saved` on every process."""
        load_state(unwrap_optimizer(self.optimizer), {parameter: saved[name] for name, parameter in self.parameters()})

    def init_optimizer_state(self, inputs: Inputs) -> None:
        """Make room for an optimizer state that is to be loaded, where that takes a step. inputs: any batch."""

    def full_weight(self, parameter: nn.Parameter) -> Tensor:
        """Of one parameter, without its gradient."""
        return parameter.detach()

    def load_full_weight(self, parameter: nn.Parameter, saved: Tensor) -> None:
        """Set one parameter, in place."""
        parameter.copy_(saved)
