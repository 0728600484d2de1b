"""A training from inputs to artifact: model, processes, schedule, the loop, what is written."""

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from axolotl_core.adapters.relora import ReLoRA
from axolotl_core.batches.plan import Plan
from axolotl_core.batches.rows import Data
from axolotl_core.checkpoints import resume, store
from axolotl_core.checkpoints.store import Checkpoint
from axolotl_core.distributed.start import start_strategy
from axolotl_core.distributed.strategy import Strategy
from axolotl_core.errors import ParamsError
from axolotl_core.models.flops import training_flops
from axolotl_core.models.load import device_of
from axolotl_core.models.pin import Pinned
from axolotl_core.models.precision import choose
from axolotl_core.objectives.sft import Objective
from axolotl_core.optim.optimizers import make_optimizer
from axolotl_core.optim.schedules import Schedule, make_schedule
from axolotl_core.params.training import Training, requires_validation
from axolotl_core.tracking.loggers import make_loggers
from axolotl_core.tracking.tracker import VALIDATION
from axolotl_core.training import artifact, summary
from axolotl_core.training.artifact import Written
from axolotl_core.training.config import Run, TrainConfig
from axolotl_core.training.loop import Loop, Outcome
from axolotl_core.training.out_of_memory import explained
from axolotl_core.training.setup import Ready, check_shape, set_up
from axolotl_core.training.validation import evaluate_validation, predict_validation

ROUNDING_ROWS = 8
"""Rows that the loss before and after rounding is taken on."""


@dataclass(frozen=True)
class Trained:
    """What came of it. kind: of the artifact, `lora` or `full`; base_dtype: of the frozen weights, and of the products of quantised ones;
    metrics: for metrics/train.json.

    validation: metrics of the validation rows before and after, None where nobody evaluated the artifact as it is.
    """

    log: list[dict[str, Any]]
    kind: str
    base_dtype: str
    metrics: dict[str, Any]
    validation: dict[str, dict[str, Any] | None]


def train_model(data: Data, pinned: Pinned, config: TrainConfig, run: Run) -> Trained:
    """Train and write the artifact. Called by every process; only rank 0 writes. pinned: the base's weights.

    Raises ParamsError, TrainError, ModelError, MachineError, Interrupted.
    """
    plan = _plan(data, config.training)
    schedule = make_schedule(config.training, config.adapter, plan.total)
    strategy: Strategy | None = None
    with ExitStack() as stack:
        stack.enter_context(explained(config.training, config.machine, lambda: strategy))
        shape = check_shape(pinned.folder, data, config.adapter, run.initial_adapter)
        device = device_of(config.machine)
        precision = choose(config.training, config.model, device, full=config.adapter.adapter is None)
        strategy = start_strategy(
            config.machine, precision, run.root, device=device, max_grad_norm=config.training.max_grad_norm, model=shape
        )
        stack.callback(strategy.close)
        with strategy.watch:
            return _train(stack, strategy, shape, plan, schedule, data, pinned, config, run)


def _train(
    stack: ExitStack,
    strategy: Strategy,
    shape: Any,
    plan: Plan,
    schedule: Schedule,
    data: Data,
    pinned: Pinned,
    config: TrainConfig,
    run: Run,
) -> Trained:
    """stack: what is closed after the last step, whatever ends it; shape: the base on the meta device."""
    if strategy.main:
        stack.enter_context(store.locked(run.folder))
    strategy.wait()  # no model is loaded before the run is known to be theirs alone
    for line in (*summary.arithmetic(plan, schedule, strategy.ranks, config.machine, config.training, data), *strategy.notes):
        strategy.print_main(line)
    if strategy.main and (line := summary.memory(shape, config, data, plan, strategy, run.initial_adapter)):
        strategy.print_main(line)
    ready = set_up(pinned.folder, data, config, run.initial_adapter, strategy.precision, empty=strategy.shards_weights)
    pinned.check()
    for line in (ready.summary(), *ready.notes):
        strategy.print_main(line)
    flops = training_flops(ready.model)  # before a process has a part of it only
    start, notes = _start(strategy, config, run)
    relora = _relora(ready, pinned.folder, config)
    objective = Objective(
        ready.model, ready.spec, strategy.autocast, config.training.neftune_noise_alpha, offload=ready.offload, kernel=ready.kernel
    )
    strategy.prepare(objective, lambda: make_optimizer(ready.model.named_parameters(), config.training, config.adapter), ready.weights)
    loggers = make_loggers(config.tracking, run.identity, run.root, ready.model, strategy.print_main) if strategy.main else ()
    for logger in loggers:
        stack.callback(logger.close)
    outcome = Loop(
        strategy,
        data.train,
        plan,
        schedule,
        config,
        run,
        evaluate=partial(evaluate_validation, strategy, data, config.machine.micro_batch_size) if len(data.validation) else None,
        relora=relora,
        loggers=loggers,
        predict=partial(predict_validation, ready, strategy.autocast, data, config.evaluation) if strategy.can_generate else None,
        flops=flops,
        branched_at=resume.branched_at(run.branch),
    ).train(start, notes)
    written = _write(strategy, ready, data, pinned, config, run, relora)
    for logger in loggers:
        logger.ended(run.out)
    return Trained(
        outcome.log,
        written.kind,
        str(ready.precision.frozen).removeprefix("torch."),
        _metrics(outcome, written, plan, ready, strategy),
        _validation(outcome, written, starts_from_base=run.branch is None and config.adapter.lora_model_dir is None),
    )


def _plan(data: Data, training: Training) -> Plan:
    """Raises ParamsError where training is to choose by validation rows and there are none."""
    if not len(data.validation) and (option := requires_validation(training)):
        raise ParamsError(
            f"training.{option} requires validation rows, but packing.val_set_size holds out none of {len(data.train):,} rows; "
            "set it to a larger share, or to a count such as 1"
        )
    return Plan.of(training, len(data.train), data.train.lengths() if training.group_by_length else ())


def _start(strategy: Strategy, config: TrainConfig, run: Run) -> tuple[Checkpoint | None, list[str]]:
    """Where the run begins: rank 0 chooses, for the others may see the folder as it was. Later checkpoints are deleted."""
    notes: list[str] = []
    chosen: Path | None = None
    if strategy.main:
        if run.restart and config.tracking.resume_from_checkpoint is None:
            store.restart(run.folder)
        chosen, notes = resume.choose(run.folder, config.tracking, config.training, run.root, run.branch)
    shared = strategy.broadcast(str(chosen or ""))
    start = None
    if shared:
        start, sentence = resume.read(Path(shared), run.identity, run.branch)
        notes = [*notes, sentence]
    if strategy.main:
        store.delete_after(run.folder, start.step if start else 0)
    return start, notes


def _relora(ready: Ready, base: Path, config: TrainConfig) -> ReLoRA | None:
    steps = config.adapter.relora_steps
    return ReLoRA(ready.model, base, steps, on_cpu=config.adapter.relora_cpu_offload) if steps else None


def _write(strategy: Strategy, ready: Ready, data: Data, pinned: Pinned, config: TrainConfig, run: Run, relora: ReLoRA | None) -> Written:
    """The artifact, written and read back; prints what rounding did."""
    source = data.validation if len(data.validation) else data.train
    rows = [source.batch([row]).place(strategy.device) for row in range(min(ROUNDING_ROWS, len(source)))]
    written = artifact.write(strategy, ready.model, pinned.folder, run.out, config.base_name, relora, rows)
    if written.kind == "full":  # which takes dtype, names and, with ReLoRA, weights of the base once more
        pinned.check()
    for line in (*written.notes, *summary.rounded(written.rounding)):
        strategy.print_main(line)
    return written


def _metrics(outcome: Outcome, written: Written, plan: Plan, ready: Ready, strategy: Strategy) -> dict[str, Any]:
    found = summary.metrics(outcome.log, outcome.step) | {
        "rows": plan.rows,
        "batch_size": plan.batch_size,
        "trained_parameters": ready.trained_parameters,
        "precision": ready.precision.name,
        "attention": ready.attention,
        "processes": strategy.ranks,
        **outcome.throughput,
    }
    return found | ({"rounding": asdict(written.rounding)} if written.rounding else {})


def _validation(outcome: Outcome, written: Written, *, starts_from_base: bool) -> dict[str, dict[str, Any] | None]:
    """Metrics of the base and of what was written, as far as training took them.

    With rounding neither: what was evaluated is not what was written, and both are to be taken in one precision.
    """
    if written.rounding:
        return {"before": None, "after": None}
    taken = {row["step"]: row.get(VALIDATION) for row in outcome.log if "eval_loss" in row}
    return {"before": taken.get(0) if starts_from_base else None, "after": taken.get(outcome.step)}
