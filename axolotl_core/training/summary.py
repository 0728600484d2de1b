"""What a run will be, as arithmetic before the first step, and what it was, as metrics after the last."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from axolotl_core.adapters import lora
from axolotl_core.batches.plan import MicroBatch, Plan, micro_batches_of_rank
from axolotl_core.batches.rows import Data
from axolotl_core.distributed.memory import estimate
from axolotl_core.distributed.strategy import Strategy
from axolotl_core.errors import AxolotlError
from axolotl_core.models.quantize import quantised
from axolotl_core.optim.schedules import Schedule, warmup_steps
from axolotl_core.params.machine import Machine
from axolotl_core.params.optimizers import OPTIMIZERS
from axolotl_core.params.training import Training
from axolotl_core.training.artifact import Rounding
from axolotl_core.training.config import TrainConfig
from axolotl_core.training.setup import unfreeze

MOST_IDLE = 0.25
"""Share of a step's passes that may be without a row before it is worth a sentence."""

UNRUNNABLE = (AxolotlError, RuntimeError, ValueError, TypeError, AttributeError, LookupError)
"""What families raise on the meta device that look at values; and an adapter that does not fit, which is told when it is attached."""


def arithmetic(plan: Plan, schedule: Schedule, ranks: int, machine: Machine, training: Training, data: Data) -> list[str]:
    """Rows, tokens, steps and learning rates:

    2 rows × 8 accumulation × 4 ranks = 64 rows, 131,072 tokens per step
    """
    mine = _micro_batches(plan, machine, ranks)
    micro, turns = len(mine[0].rows), len(mine)
    rows, fits = min(plan.batch_size, plan.rows), micro * turns * ranks == min(plan.batch_size, plan.rows)
    tokens = rows * data.train.sequence_len if data.train.pad_to_sequence_len else round(rows * data.tokens / plan.rows)
    lines = [
        f"{_count(micro, 'row')} × {turns} accumulation × {_count(ranks, 'rank')} {'=' if fits else '→'} {_count(rows, 'row')}, "
        f"{'' if data.train.pad_to_sequence_len else 'about '}{tokens:,} tokens per step",
        f"{plan.rows:,} rows ÷ {plan.batch_size} × {plan.epochs:g} epochs = {plan.steps_per_epoch * plan.epochs:,.0f} steps"
        + (f", {plan.total:,} of them (max_steps)" if plan.total == plan.max_steps else "")
        + f"; {data.target_tokens:,} of {data.tokens:,} tokens per epoch are target tokens",
    ]
    steps = dict.fromkeys((0, min(warmup_steps(training, plan.total), plan.total - 1), plan.total - 1))
    if (warmup := warmup_steps(training, plan.total)) >= plan.total:
        lines.append(
            f"the run has {_count(plan.total, 'step')}, and warmup_steps is {warmup}: it ends while the learning rate still climbs"
        )
    if not any(schedule.factor(step) for step in range(plan.total)):
        lines.append(f"the learning rate is 0 in every step (warmup_steps {warmup}), so nothing is trained; set warmup_steps: 0")
    rates = ", ".join(f"{training.learning_rate * schedule.factor(step):.3g} at step {step + 1:,}" for step in steps)
    lines.append(f"learning rate {rates} ({training.lr_scheduler}); {training.optimizer}")
    idle = 1 - rows / (micro * turns * ranks)
    if ranks > 1 and (rows < ranks * machine.micro_batch_size or idle > MOST_IDLE):
        lost = f", and {idle:.0%} of the passes have none" if idle else ""
        lines.append(
            f"{_count(rows, 'row')} a step are few for {ranks} ranks: micro-batches have {_count(micro, 'row')}{lost}; "
            f"a training.batch_size that {ranks * machine.micro_batch_size} divides fills them all"
        )
    return lines


def _micro_batches(plan: Plan, machine: Machine, ranks: int) -> list[MicroBatch]:
    """Of rank 0 in the first step."""
    return micro_batches_of_rank(plan.rows_of(0), machine.micro_batch_size, 0, ranks)


def memory(shape: Any, config: TrainConfig, data: Data, plan: Plan, strategy: Strategy, initial_adapter: Path | None) -> str | None:
    """What a process will need, None for a model that cannot be run without weights. shape: on the meta device."""
    adapter, machine, training = config.adapter, config.machine, config.training
    tokens = machine.micro_batch_size * data.train.sequence_len
    quantisation = quantised(config.model)
    with suppress(*UNRUNNABLE):
        if initial_adapter:
            model = lora.on_meta(shape, initial_adapter)
        else:
            model = shape if adapter.adapter is None else lora.attach(shape, adapter)
        if training.unfrozen_parameters:
            unfreeze(model, training.unfrozen_parameters)
        found = estimate(
            model,
            strategy.precision,
            OPTIMIZERS[training.optimizer],
            strategy.sharding,
            strategy.sharded_over,
            tokens,
            accumulates=len(_micro_batches(plan, machine, strategy.ranks)) > 1,
            recomputes=bool(machine.gradient_checkpointing),
            bits={"4bit": 4, "gptq": 4, "8bit": 8}[quantisation] if quantisation else None,
        )
        return found.line()
    return None


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def metrics(log: list[dict[str, Any]], step: int) -> dict[str, Any]:
    """Losses of a run that ended with the weights of `step`, None where none was taken."""
    losses = [row["loss"] for row in log if "loss" in row]
    validation = {row["step"]: row["eval_loss"] for row in log if "eval_loss" in row}
    return {
        "steps": step,
        "loss_first": losses[0] if losses else None,
        "loss_last": losses[-1] if losses else None,
        "eval_loss_before": validation.get(0),
        "eval_loss_after": validation.get(step),
    }


def compared(found: dict[str, Any], validation: dict[str, Any], target_share: float) -> dict[str, Any]:
    """metrics/summary.json: the few numbers by which runs are compared. found: metrics/train.json; validation: metrics/held_out.json;
    target_share: target tokens over all tokens of the training rows."""
    after = validation.get("after") or {}
    return {
        "eval_loss_before": _short(found["eval_loss_before"]),
        "eval_loss": _short(found["eval_loss_after"]),
        "eval_accuracy": _short(after.get("accuracy")),
        "tokens_per_s": found["tokens_per_s"],
        "rows": found["rows"],
        "target_share": _short(target_share),
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def rounded(rounding: Rounding | None) -> list[str]:
    """What rounding the weights to the base's dtype did to the loss, as lines for the user."""
    if rounding is None:
        return []
    return [f"weights rounded to the base's {rounding.dtype}: loss {rounding.loss_before:.4f} → {rounding.loss_after:.4f} on a few rows"]


def summary_line(found: dict[str, Any]) -> str:
    """A line of the metrics."""
    line = f"{found['steps']} steps"
    if found["loss_first"] is not None:
        line += f", loss {found['loss_first']:.3f} → {found['loss_last']:.3f}"
    if found["eval_loss_after"] is not None and found["eval_loss_before"] is not None:
        line += f", eval_loss {found['eval_loss_before']:.3f} → {found['eval_loss_after']:.3f}"
    return line
