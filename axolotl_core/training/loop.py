"""The training run: from a plan of rows to trained weights, resumable at every checkpoint.

    for each step: its rows → micro-batches → one optimizer step → log → evaluate? → checkpoint?

Everything that the result depends on is restored from a checkpoint: weights, optimizer, random generators and the
step; the rows of a step follow from the step. So a run that was killed ends with the same bytes as one that was not.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from axolotl_core.params.machine import Machine
from axolotl_core.params.tracking import Tracking
from axolotl_core.params.training import Training
from axolotl_core.training import checkpoint
from axolotl_core.training.batches import RowSource
from axolotl_core.training.optim import make_optimizer, set_learning_rate
from axolotl_core.training.plan import Plan
from axolotl_core.training.schedule import SCHEDULES, warmup_steps
from axolotl_core.training.step import train_step
from axolotl_core.training.track import Tracker


@dataclass(frozen=True)
class Outcome:
    """What a run says of itself when it is over."""

    log: list[dict[str, Any]]
    tokens_per_s: float
    resumed_from: int


def train(
    model: Any,
    rows: RowSource,
    plan: Plan,
    run: Path,
    accelerator: Accelerator,
    *,
    how: str,
    training: Training,
    machine: Machine,
    tracking: Tracking,
    evaluate: Callable[[Any], float] | None,
) -> Outcome:
    """Train `model` in place. evaluate: model → held-out loss, or None without held-out rows.

    run: folder of this run's checkpoints. Raises TrainError: non-finite loss, another process in the same folder.
    """
    warmup, factor = warmup_steps(training, plan.total), SCHEDULES[training.lr_scheduler]
    optimizer = make_optimizer(model.named_parameters(), training)
    with checkpoint.locked(run):
        seed_everything(training.seed)
        if not tracking.auto_resume_from_checkpoints:
            checkpoint.forget(run, after=0)
        done, log, told = checkpoint.restore(run, model, optimizer)
        wrapped, wrapped_optimizer = accelerator.prepare(model, optimizer)
        tracker = Tracker(plan.total, done, log, tracking.logging_steps)
        for sentence in told:
            tracker.say(sentence)
        if done:
            tracker.say(f"resumed from the checkpoint of step {done}")
        elif evaluate:
            tracker.evaluated(0, evaluate(model))
        wrapped.train()
        for step in range(done, plan.total):
            learning_rate = training.learning_rate * factor(step, plan.total, warmup)
            set_learning_rate(optimizer, learning_rate)
            micro_batches = list(rows.batches(plan.rows_of(step), machine.micro_batch_size))
            report = train_step(
                wrapped, micro_batches, wrapped_optimizer, accelerator, step=step + 1, how=how, max_grad_norm=training.max_grad_norm
            )
            tracker.step(step + 1, (step + 1) / plan.steps_per_epoch, report, learning_rate)
            if evaluate and evaluates(step, plan, training):
                tracker.evaluated(step + 1, evaluate(model))
            if saves(step, plan, tracking):
                checkpoint.save(run, step + 1, model, optimizer, log, tracking.save_total_limit)
        tracker.close()
    return Outcome(log, tracker.tokens_per_s, done)


def evaluates(step: int, plan: Plan, training: Training) -> bool:
    """Whether the held-out loss is taken after step `step` (from 0); always after the last."""
    if step + 1 == plan.total:
        return True
    if training.evaluation_strategy == "no":
        return False
    return (step + 1) % training.eval_steps == 0 if training.eval_steps else plan.ends_epoch(step)


def saves(step: int, plan: Plan, tracking: Tracking) -> bool:
    """Whether a checkpoint is written after step `step` (from 0)."""
    if tracking.save_strategy == "no":
        return False
    return (step + 1) % tracking.save_steps == 0 if tracking.save_steps else plan.ends_epoch(step)


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch; 0 is a seed."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
