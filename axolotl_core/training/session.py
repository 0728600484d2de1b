"""A training from inputs to artifact: model, processes, schedule, the loop, what is written."""

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from axolotl_core.adapters.relora import Restarts
from axolotl_core.errors import ParamsError
from axolotl_core.evaluation.measure import measure
from axolotl_core.evaluation.predictions import predictions
from axolotl_core.evaluation.replies import prompts
from axolotl_core.models.load import embedding_rows
from axolotl_core.models.packing import How
from axolotl_core.models.pin import Pinned
from axolotl_core.params.adapter import Adapter
from axolotl_core.params.evaluation import Evaluation
from axolotl_core.params.machine import Machine
from axolotl_core.params.model import Model
from axolotl_core.params.tracking import Tracking
from axolotl_core.params.training import Training
from axolotl_core.progress import progress
from axolotl_core.training import artifact, checkpoint, resume
from axolotl_core.training.batches import Data, Inputs
from axolotl_core.training.checkpoint import Checkpoint
from axolotl_core.training.listen import listeners_of
from axolotl_core.training.loop import Loop
from axolotl_core.training.memory import explained
from axolotl_core.training.objective import Objective
from axolotl_core.training.optim import make_optimizer
from axolotl_core.training.parallel import Parallel
from axolotl_core.training.plan import Plan, shares
from axolotl_core.training.schedule import make_schedule
from axolotl_core.training.setup import set_up
from axolotl_core.training.stop import wants_validation
from axolotl_core.training.summary import arithmetic, metrics, rounded
from axolotl_core.training.track import HELD_OUT

ROUNDING_ROWS = 8
"""Rows that the loss before and after rounding is taken on."""


@dataclass(frozen=True)
class Asked:
    """The sections of params.yaml that a training reads."""

    model: Model
    adapter: Adapter
    training: Training
    machine: Machine
    tracking: Tracking
    evaluation: Evaluation
    """For the table of predictions alone."""
    base_name: str
    """What peft opens the base model by."""


@dataclass(frozen=True)
class Trained:
    """What came of it. kind: of the artifact, `lora` or `full`; metrics: for metrics/train.json.

    held_out: what `measure` found before and after, None where nobody measured the artifact as it is.
    """

    log: list[dict[str, Any]]
    kind: str
    metrics: dict[str, Any]
    held_out: dict[str, dict[str, Any] | None]


def train_model(
    data: Data,
    pinned: Pinned,
    run: Path,
    out: Path,
    asked: Asked,
    *,
    identity: dict[str, Any],
    root: Path,
    goes_on_from: Path | None = None,
    branch: Path | None = None,
    anew: bool = False,
) -> Trained:
    """Train and write the artifact to `out`. Called by every process; only rank 0 writes.

    pinned: the base's weights; run: the folder of the run's checkpoints; identity: what the run is of;
    root: what paths in params.yaml are relative to; goes_on_from: a folder with an adapter; branch: a checkpoint of another run to go
    on from; anew: train once more what was trained to its end.
    Raises ParamsError, TrainError, ModelError, MachineError, Interrupted.
    """
    adapter, training, machine, base = asked.adapter, asked.training, asked.machine, pinned.folder
    lengths = data.train.lengths() if training.group_by_length else ()
    assert training.batch_size is not None, "resolved when params.yaml was read"
    if not len(data.held_out) and (option := wants_validation(training)):
        raise ParamsError(
            f"training.{option} wants held-out rows, but packing.val_set_size holds out none of {len(data.train):,} rows; "
            "set it to a larger share, or to a count such as 1"
        )
    plan = Plan(len(data.train), training.batch_size, training.num_epochs, training.seed, training.max_steps, lengths)
    schedule = make_schedule(training, adapter, plan.total)
    parallel: Parallel | None = None
    with contextlib.ExitStack() as stack:
        stack.enter_context(explained(training, machine, lambda: parallel))
        ready = set_up(
            base,
            vocabulary=embedding_rows(data.tokenizer.size, asked.model),
            new_tokens=data.new_tokens,
            sequence_len=data.train.sequence_len,
            packed=data.packed,
            model=asked.model,
            adapter=adapter,
            training=training,
            machine=machine,
            goes_on_from=goes_on_from,
        )
        pinned.check()
        trained = sum(p.numel() for p in ready.model.parameters() if p.requires_grad)
        parallel = Parallel(machine, ready.precision, root, device=ready.device, max_grad_norm=training.max_grad_norm, model=ready.model)
        stack.callback(parallel.close)
        if parallel.main:
            stack.enter_context(checkpoint.locked(run))
        lines = arithmetic(plan, schedule, parallel.world, machine, training, data)
        for line in (*lines, ready.arithmetic(), *ready.notes, *parallel.told):
            parallel.say(line)
        start, told = _start(parallel, run, asked, identity, root, branch, anew)
        restarts = Restarts(ready.model, base, adapter.relora_steps, on_cpu=adapter.relora_cpu_offload) if adapter.relora_steps else None
        objective = Objective(ready.model, ready.how, parallel.autocast, training.neftune_noise_alpha)
        parallel.prepare(objective, make_optimizer(ready.model.named_parameters(), training, adapter))
        listeners = listeners_of(asked.tracking, identity, root, ready.model, parallel.say) if parallel.main else ()
        for listener in listeners:
            stack.callback(listener.close)
        loop = Loop(
            parallel,
            data.train,
            plan,
            schedule,
            run,
            identity=identity,
            training=training,
            machine=machine,
            tracking=asked.tracking,
            measure=partial(held_out_numbers, parallel, data, machine.micro_batch_size) if len(data.held_out) else None,
            restarts=restarts,
            prune=adapter.relora_prune_ratio,
            listeners=listeners,
            predict=partial(_predict, ready.model, ready.how, data, asked.evaluation) if parallel.kind in ("alone", "ddp") else None,
            since=resume.branched_at(branch),
        )
        outcome = loop.train(start, told)
        seen = data.held_out if len(data.held_out) else data.train
        rows = [seen.batch([row]).place(parallel.device) for row in range(min(ROUNDING_ROWS, len(seen)))]
        written = artifact.write(parallel, ready.model, base, out, asked.base_name, restarts, rows)
        if written.kind == "full":  # which takes dtype, names and, with ReLoRA, weights of the base once more
            pinned.check()
        for line in (*written.notes, *rounded(written.rounding)):
            parallel.say(line)
        for listener in listeners:
            listener.ended(out)
        found = metrics(outcome.log, outcome.step) | {
            "rows": plan.rows,
            "batch_size": plan.batch_size,
            "trained_parameters": trained,
            "precision": ready.precision.name,
            "attention": ready.attention,
            "processes": parallel.world,
            "tokens_per_s": outcome.tokens_per_s,
        }
        if written.rounding:
            found["rounding"] = asdict(written.rounding)
        taken = {row["step"]: row.get(HELD_OUT) for row in outcome.log if "eval_loss" in row}
        base_was_seen = branch is None and adapter.lora_model_dir is None
        seen_here = {"before": taken.get(0) if base_was_seen else None, "after": taken.get(outcome.step)}
        if written.rounding:  # what was measured is not what was written, and both are measured in one precision
            seen_here = dict.fromkeys(seen_here)
        return Trained(outcome.log, written.kind, found, seen_here)


def _start(
    parallel: Parallel, run: Path, asked: Asked, identity: dict[str, Any], root: Path, branch: Path | None, anew: bool
) -> tuple[Checkpoint | None, list[str]]:
    """Where the run begins: rank 0 chooses, for the others may see the folder as it was. Later checkpoints go."""
    told: list[str] = []
    chosen: Path | None = None
    if parallel.main:
        if anew and asked.tracking.resume_from_checkpoint is None:
            checkpoint.begin_anew(run)
        chosen, told = resume.choose(run, asked.tracking, asked.training, root, branch)
    shared = parallel.share(str(chosen or ""))
    start = None
    if shared:
        start, sentence = resume.read(Path(shared), identity, branch)
        told = [*told, sentence]
    if parallel.main:
        checkpoint.forget(run, after=start.step if start else 0)
    return start, told


def _predict(model: Any, how: How, data: Data, evaluation: Evaluation) -> list[dict[str, Any]]:
    asked = prompts(data.held_out, evaluation.eval_table_size)
    return predictions(model, how, asked, data.tokenizer, evaluation.eval_table_max_new_tokens)


def held_out_numbers(parallel: Parallel, data: Data, batch_size: int, stop: Callable[[], bool]) -> dict[str, Any] | None:
    """`measure` of the held-out rows, each process a part of them; None where `stop` ended it."""

    def each(inputs: Inputs) -> Any:
        return parallel.objective(inputs, each=True)

    def batches() -> Any:
        mine = shares(range(len(data.held_out)), batch_size, parallel.rank, parallel.world)
        for micro in progress(mine, len(mine), "evaluation"):
            inputs = data.held_out.batch(micro.rows or [0]).place(parallel.device)
            yield inputs if micro.rows else inputs.untrained()

    parallel.objective.eval()
    found = measure(each, batches(), data.names, parallel.sum, stop)
    parallel.objective.train()
    return found
