"""What workers are asked to do; each function is called in every process of a group, or in one by itself."""

import gc
from pathlib import Path
from typing import Any

import torch

from axolotl_core.adapters import lora
from axolotl_core.distributed.start import start_strategy
from axolotl_core.models.load import Loaded, load_model
from axolotl_core.models.precision import Precision, choose
from axolotl_core.models.shape import model_on_meta
from axolotl_core.objectives.sft import Objective
from axolotl_core.optim.optimizers import make_optimizer
from axolotl_core.params.adapter import Adapter
from axolotl_core.params.machine import Machine
from axolotl_core.params.model import Model
from axolotl_core.params.training import Training
from axolotl_core.training.step import seed_everything, train_step
from tests.rows_in_memory import CPU, LENGTHS, source

LORA = Adapter(adapter="lora", lora_r=4, lora_target_linear=True, lora_dropout=0.1)


def begun(folder: Path, machine: dict[str, Any], adapter: Adapter, training: Training, vocabulary: int = 0) -> tuple[Any, Loaded]:
    """A strategy with a wrapped model of the folder."""
    settings = Machine(device="cpu", **machine)
    full = adapter.adapter is None
    precision: Precision = choose(training, Model(base_model="x"), CPU, full=full)
    strategy = start_strategy(settings, precision, folder, device=CPU, max_grad_norm=1.0, model=model_on_meta(folder))
    dtype = precision.trained if full else precision.frozen
    loaded = load_model(
        folder, settings, vocabulary=vocabulary, packed=True, dtype=dtype, autocast=precision.autocast, empty=strategy.shards_weights
    )
    seed_everything(0)
    model = loaded.model if full else lora.attach(loaded.model, adapter)
    if precision.autocast and not full:
        lora.leave_casts_to_autocast(model)
    elif not full:
        lora.cast_saved_modules(model, precision.frozen)
    objective = Objective(model, loaded.spec, strategy.autocast).train()
    training = training.model_copy(update={"learning_rate": 1e-3})
    strategy.prepare(objective, lambda: make_optimizer(model.named_parameters(), training, adapter), loaded.weights)
    return strategy, loaded


def train(folder: Path, machine: dict, adapter: Adapter, training: Training, steps: int = 3) -> tuple[list[float], dict[str, Any]]:
    """Losses of some steps, and the trained weights after them, on rank 0."""
    strategy, _ = begun(folder, machine, adapter, training)
    rows, losses = source(LENGTHS), []
    for step in range(1, steps + 1):
        losses.append(train_step(strategy, rows, [0, 1, 2, 3], step=step, seed=0, micro_batch_size=1).result().loss)
    weights = strategy.full_weights()
    strategy.close()
    return losses, weights


def filled(folder: Path, machine: dict, adapter: Adapter, vocabulary: int) -> dict[str, Any]:
    """All weights as they are before the first step, on rank 0."""
    strategy, _ = begun(folder, machine, adapter, Training(), vocabulary)
    weights = strategy.full_weights(frozen=True)
    strategy.close()
    return weights


def kept_after_forward(folder: Path, machine: dict, adapter: Adapter) -> int:
    """Numbers in tensors of 16 bits that have the shape of a weight and are kept for the backward pass, under autocast to bf16."""
    strategy, _ = begun(folder, machine, adapter, Training(bf16=True))
    shapes = {tuple(parameter.shape) for parameter in model_on_meta(folder).parameters() if parameter.ndim > 1}
    shapes |= {shape[::-1] for shape in shapes}
    kept: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.bfloat16 and tuple(tensor.shape) in shapes:
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = strategy.objective(source(LENGTHS).batch([0]).place(CPU))
    held = {tensor.untyped_storage().data_ptr(): tensor.numel() for tensor in kept if tensor.untyped_storage().nbytes()}
    loss.backward()
    strategy.close()
    return sum(held.values())


def peak_of_loading(folder: Path, machine: dict, adapter: Adapter) -> int:
    """Bytes by which this process grew at most while the model was loaded and sharded."""
    gc.collect()
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    strategy, _ = begun(folder, machine, adapter, Training())
    peak = _memory("VmHWM") - before
    strategy.close()
    return peak


def _memory(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
