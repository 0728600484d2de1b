"""What workers are asked to do; each function is called in every process of a group, or in one by itself."""

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file

from axolotl_core.adapters import lora
from axolotl_core.checkpoints import store
from axolotl_core.checkpoints.saver import Saver
from axolotl_core.checkpoints.store import Snapshot
from axolotl_core.distributed.fsdp import FSDP
from axolotl_core.distributed.memory import Memory, estimate
from axolotl_core.distributed.sharded_files import Part
from axolotl_core.distributed.start import start_strategy
from axolotl_core.distributed.strategy import Strategy
from axolotl_core.errors import MachineError
from axolotl_core.models import conversion
from axolotl_core.models.activations import checkpoint_layers
from axolotl_core.models.load import Loaded, load_model
from axolotl_core.models.precision import Precision, choose
from axolotl_core.models.shape import model_on_meta
from axolotl_core.models.weights import load_on_cpu
from axolotl_core.objectives.sft import Objective
from axolotl_core.optim.groups import set_lr_and_betas
from axolotl_core.optim.optimizers import make_optimizer
from axolotl_core.params.adapter import Adapter
from axolotl_core.params.machine import Machine
from axolotl_core.params.model import Model
from axolotl_core.params.optimizers import OPTIMIZERS
from axolotl_core.params.sharding import Fsdp
from axolotl_core.params.training import Training
from axolotl_core.training import artifact
from axolotl_core.training.setup import with_adapter
from axolotl_core.training.step import seed_everything, train_step
from tests.rows_in_memory import CPU, LENGTHS, source

LORA = Adapter(adapter="lora", lora_r=4, lora_target_linear=True, lora_dropout=0.1)


def begun(
    folder: Path,
    machine: dict[str, Any],
    adapter: Adapter,
    training: Training,
    vocabulary: int = 0,
    *,
    learning_rate: float = 1e-3,
    max_grad_norm: float = 1.0,
    packed: bool = True,
    recomputes: bool = False,
    initial_adapter: Path | None = None,
) -> tuple[Any, Loaded]:
    """A strategy with a wrapped model of the folder."""
    settings = Machine(device="cpu", **machine)
    full = adapter.adapter is None
    precision: Precision = choose(training, Model(base_model="x"), CPU, full=full)
    strategy = start_strategy(settings, precision, folder, device=CPU, max_grad_norm=max_grad_norm, model=model_on_meta(folder))
    dtype = precision.trained if full else precision.frozen
    loaded = load_model(
        folder, settings, vocabulary=vocabulary, packed=packed, dtype=dtype, autocast=precision.autocast, empty=strategy.shards_weights
    )
    seed_everything(0)
    model = loaded.model if full else with_adapter(loaded, adapter, precision, initial_adapter, print)
    if recomputes:
        checkpoint_layers(model, selective=False)
    objective = Objective(model, loaded.spec, strategy.autocast).train()
    training = training.model_copy(update={"learning_rate": learning_rate})
    strategy.prepare(objective, lambda: make_optimizer(model.named_parameters(), training, adapter), loaded.weights)
    return strategy, loaded


def on_machines_of(processes: int, job: Callable[..., Any], *arguments: Any) -> Any:
    """A job as if so many of its processes were on each machine."""
    with patch.dict(os.environ, LOCAL_WORLD_SIZE=str(processes)):
        return job(*arguments)


def save_adapter(folder: Path, adapter: Adapter, out: Path, vocabulary: int = 0) -> None:
    """Of a model of the folder, as if it was trained; with embeddings of that many rows, as peft adds them to an adapter's file."""
    torch.manual_seed(1)
    base = load_on_cpu(folder)
    if vocabulary:
        base.resize_token_embeddings(vocabulary)
    model = lora.attach(base, adapter)
    trained = {name: p.data.add_(torch.randn_like(p), alpha=0.05) for name, p in model.named_parameters() if p.requires_grad}
    out.mkdir()
    if vocabulary:
        model.save_pretrained(out, save_embedding_layers=True)
    else:
        lora.save(model, out, str(folder), trained)


def train(
    folder: Path,
    machine: dict,
    adapter: Adapter,
    training: Training,
    steps: int = 3,
    initial_adapter: Path | None = None,
    vocabulary: int = 0,
) -> tuple[list[float], dict[str, Any]]:
    """Losses of some steps, and the trained weights after them, on rank 0."""
    strategy, _ = begun(folder, machine, adapter, training, vocabulary, initial_adapter=initial_adapter)
    rows, losses = source(LENGTHS), []
    for step in range(1, steps + 1):
        losses.append(train_step(strategy, rows, [0, 1, 2, 3], step=step, seed=0, micro_batch_size=1).result().loss)
    weights = dict(strategy.full_weights())
    strategy.close()
    return losses, weights


def curve(folder: Path, machine: dict, packed: bool, recomputes: bool, steps: int = 10) -> list[float]:
    """Losses of steps of four rows, a row a pass, by plain gradient descent: a gradient that is too long or too short shows."""
    plain = {"learning_rate": 0.2, "max_grad_norm": 0.0, "packed": packed, "recomputes": recomputes}
    strategy, _ = begun(folder, machine, Adapter(), Training(optimizer="sgd"), **plain)
    rows = source(LENGTHS, packed)
    chosen = [[(4 * step + row) % len(rows) for row in range(4)] for step in range(steps)]
    losses = [train_step(strategy, rows, four, step=1 + i, seed=0, micro_batch_size=1).result().loss for i, four in enumerate(chosen)]
    strategy.close()
    return losses


def filled(folder: Path, machine: dict, adapter: Adapter, vocabulary: int) -> dict[str, Any]:
    """All weights as they are before the first step, on rank 0."""
    strategy, _ = begun(folder, machine, adapter, Training(), vocabulary)
    weights = dict(strategy.full_weights(frozen=True))
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


def peak_of_writing(folder: Path, machine: dict, out: Path) -> int:
    """Bytes by which this process grew at most while the whole model was written and read back, in files of 16 MB."""
    strategy, loaded = begun(folder, machine, Adapter(), Training(bf16=True))
    gc.collect()
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    out.mkdir(exist_ok=True)
    with patch.object(conversion, "SHARD", "16MB"):
        artifact.write(strategy, loaded.model, folder, out, "x", None, [source(LENGTHS).batch([0]).place(CPU)])
    peak = _memory("VmHWM") - before
    strategy.close()
    return peak


def written_slowly(folder: Path, machine: dict, out: Path) -> list[str]:
    """Files of a full model of which rank 0 writes the first one longer than a process waits for another."""
    strategy, loaded = begun(folder, machine | {"ddp_timeout": 4}, Adapter(), Training())
    out.mkdir(exist_ok=True)
    with patch.object(conversion, "save_file", lambda *words, **named: (time.sleep(6), save_file(*words, **named))):
        artifact.write(strategy, loaded.model, folder, out, "x", None, [source(LENGTHS).batch([0]).place(CPU)])
    strategy.close()
    return sorted(file.name for file in out.glob("*.safetensors"))


def sharing(folder: Path, on_machine: list[int]) -> tuple[int, list[str]]:
    """Over how many processes a model is sharded, and the notes, where so many are on each process's machine."""
    with patch.dict(os.environ, LOCAL_WORLD_SIZE=str(on_machine[int(os.environ["RANK"])])):
        strategy, _ = begun(folder, {"fsdp": True, "fsdp_config": {"sharding_strategy": "HYBRID_SHARD"}}, Adapter(), Training())
    found = strategy.sharded_over, list(strategy.notes)
    strategy.close()
    return found


def dies(rank: int) -> str:
    """One of the processes ends, another waits for it."""
    if int(os.environ["RANK"]) == rank:
        os._exit(3)
    time.sleep(600)
    return "never said"


def _memory(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def resumed(
    folder: Path, machine: dict, adapter: Adapter, training: Training, run: Path, after: int, until: int
) -> tuple[list[float], dict[str, Any]]:
    """Train from the checkpoint of step `after`, or from the beginning where that is 0, and write one of step `until`."""
    strategy, _ = begun(folder, machine, adapter, training)
    rows, losses = source(LENGTHS), []
    if after:
        found = store.read(run / f"step-{after}")
        strategy.init_optimizer_state(rows.batch([0]).place(CPU))
        strategy.load_weights(found.tensors())
        strategy.load_states(found.tensors(), found.states)
    for step in range(after + 1, until + 1):
        set_lr_and_betas(strategy.optimizer, 1e-3, None)
        losses.append(train_step(strategy, rows, [0, 1, 2, 3], step=step, seed=0, micro_batch_size=1).result().loss)
    strategy.objective.eval()
    with torch.no_grad():
        strategy.objective(rows.batch([0]).place(CPU))  # as an evaluation runs before a checkpoint
    parts, states = strategy.state_parts()
    saver = Saver(run, 9, strategy.patient_group(), CPU, in_background=True)
    saver.save(f"step-{until}", Snapshot(until, strategy.weight_parts() | parts, states, [], {}), wait=False)
    weights = dict(strategy.full_weights())
    saver.wait()
    strategy.close()
    return losses, weights


def _started(folder: Path, timeout_s: int) -> Strategy:
    """A group of processes without a model to speak of."""
    machine = Machine(device="cpu", ddp_timeout=timeout_s)
    return start_strategy(
        machine, choose(Training(), Model(base_model="x"), CPU, full=True), folder, device=CPU, max_grad_norm=1.0, model=None
    )


def saved_elsewhere(run: Path) -> str:
    """What rank 0 tells of a checkpoint of which rank 1 writes its part where rank 0 does not look."""
    strategy = _started(run, 60)
    group, write, told = strategy.patient_group(), store.write, ""
    if strategy.rank == 1:
        store.write = lambda folder, *rest: write(folder.with_name("of another machine"), *rest)
    try:
        store.save(run, "step-1", Snapshot(1, {"weights/a": Part(torch.zeros(3), 3 * strategy.rank, 6)}, {}, [], {}), group)
    except MachineError as error:
        told = str(error)
        torch.distributed.barrier(group=group)  # where rank 1 waits; a run would be ended by the watch
    finally:
        store.write = write
    strategy.close()
    return told


def waits_for_a_slow_rank_0(folder: Path) -> str:
    """What rank 0 has chosen, long after the group's own timeout."""
    strategy = _started(folder, 1)
    if strategy.main:
        time.sleep(2)
    found = strategy.broadcast("chosen" if strategy.main else "")
    strategy.close()
    return found


def peak_of_training(folder: Path, machine: dict, adapter: Adapter, training: Training, tokens: int) -> tuple[int, Memory]:
    """Bytes by which this process grew at most in a step on one row of so many tokens, weights included; and what was estimated."""
    gc.collect()
    before = _memory("VmRSS")
    strategy, _ = begun(folder, machine, adapter, training)
    rows = source([tokens] * strategy.ranks, sequence_len=tokens)
    for step in (1, 2):  # the second one has the optimizer's state
        Path("/proc/self/clear_refs").write_text("5")
        train_step(strategy, rows, range(strategy.ranks), step=step, seed=0, micro_batch_size=1)
    peak = _memory("VmHWM") - before
    meta = model_on_meta(folder)
    if adapter.adapter:
        meta = lora.attach(meta, adapter)
    optimizer = OPTIMIZERS[training.optimizer]
    found = estimate(meta, strategy.precision, optimizer, strategy.sharding, strategy.ranks, tokens, accumulates=False)
    strategy.close()
    return peak, found


def layout(folder: Path, ranks: int, wanted: list[int]) -> dict[str, tuple[int, int, int]]:
    """Where in each weight the part begins that a process writes, its length and that of the whole, of a model without weights. This
    process is taken for one of `ranks`, the one that `wanted` has at its place; nothing is ever sent."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    rank = wanted[int(os.environ["RANK"])]
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    accelerator: Any = SimpleNamespace(process_index=rank, num_processes=ranks, device=CPU)
    with patch.object(Strategy, "patient_group", lambda self: None), patch("axolotl_core.distributed.strategy.FailureWatch"):
        strategy = FSDP(accelerator, Precision("bf16", torch.bfloat16, torch.float32, torch.bfloat16), 1.0, (), Fsdp())
    objective = torch.nn.Module()
    objective.model = model_on_meta(folder)
    strategy.prepare(objective, lambda: make_optimizer(objective.named_parameters(), Training(), Adapter()))
    parts = strategy.weight_parts()
    assert {part.values.device.type for part in parts.values()} == {"meta"}
    torch.distributed.destroy_process_group()
    return {key: (part.start, len(part.values), part.total) for key, part in parts.items()}
