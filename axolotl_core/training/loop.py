"""The training run: from a plan of rows to trained weights, resumable at every checkpoint.

    for each step: its rows → micro-batches → one optimizer step → log → evaluate? → checkpoint?

Everything that the result depends on is in a checkpoint or follows from the step: the rows, the learning rate, what is
drawn. So a run that was killed ends with the same bytes as one that was not. The metrics of a step are read when the next
one is under way, so that the device never waits; before an evaluation or a checkpoint they are read at once.
"""

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from axolotl_core.adapters.relora import ReLoRA
from axolotl_core.batches.plan import Plan
from axolotl_core.batches.rows import RowSource
from axolotl_core.checkpoints import store
from axolotl_core.checkpoints.best import best_step, keeps_best, missing_best
from axolotl_core.checkpoints.saver import Saver
from axolotl_core.checkpoints.store import BEST, Checkpoint, Snapshot
from axolotl_core.distributed.optimizer_state import unwrap_optimizer
from axolotl_core.distributed.strategy import States, Strategy
from axolotl_core.errors import Interrupted, TrainError
from axolotl_core.garbage import collected_by_hand
from axolotl_core.models.flops import TrainingFlops
from axolotl_core.optim.groups import reset_state, set_lr_and_betas
from axolotl_core.optim.schedules import Schedule
from axolotl_core.tracking.logger import Logger
from axolotl_core.tracking.peak import peak_flops
from axolotl_core.tracking.tracker import Tracker
from axolotl_core.training.config import Run, TrainConfig
from axolotl_core.training.early_stopping import is_diverged, is_over
from axolotl_core.training.signals import Signals
from axolotl_core.training.step import PendingMetrics, seed_everything, train_step

COLLECT_EVERY = 50
"""Steps between two garbage collections, which all processes do together: in a step it would let the device and the others wait."""
Evaluate = Callable[[Callable[[], bool]], dict[str, Any] | None]
"""The metrics of the validation rows, as `evaluation.evaluate` gives them; its argument is called after each batch and ends it, with
None, once it is true."""


@dataclass(frozen=True)
class Outcome:
    """What a run ended with. step: whose weights the model has."""

    log: list[dict[str, Any]]
    step: int
    throughput: dict[str, float]


@dataclass
class Loop:
    """One run, whose folder is locked."""

    strategy: Strategy
    """With the wrapped model and optimizer."""
    rows: RowSource
    plan: Plan
    schedule: Schedule
    config: TrainConfig
    run: Run
    evaluate: Evaluate | None = None
    relora: ReLoRA | None = None
    loggers: Sequence[Logger] = ()
    predict: Callable[[], list[dict[str, Any]]] | None = None
    """Rows of the table of predictions."""
    flops: TrainingFlops | None = None
    branched_at: int = 0
    """The step of the checkpoint that the run branches from, whose evaluations are another run's."""
    log: list[dict[str, Any]] = field(default_factory=list, init=False)
    pending: list[PendingMetrics] = field(default_factory=list, init=False)

    def train(self, start: Checkpoint | None, notes: Sequence[str] = ()) -> Outcome:
        """From a checkpoint or from the beginning. Raises TrainError for a loss that is not finite, Interrupted for a signal."""
        keep, device = self.config.tracking.save_total_limit, self.strategy.device
        self.saver = Saver(self.run.folder, keep, self.strategy.patient_group(), device, in_background=device.type == "cuda")
        done, self.log = (start.step, start.log) if start else (0, [])
        self.tracker = Tracker(
            self.plan.total,
            done,
            self.log,
            self._steps_of(self.config.tracking.logging_steps) or 1,
            self.loggers,
            watch=self.config.training.loss_watchdog_threshold,
            quiet=not self.strategy.main,
            peak_flops=self._peak_flops() if self.flops else 0.0,
        )
        try:
            if start:
                self._restore(start)
            for note in notes:
                self.tracker.print(note)
            self.tracker.pause()
            with collected_by_hand(), Signals(quiet=not self.strategy.main).listening() as self.signals:
                if self.evaluate and not self.log and not self._take_evaluation(0):
                    raise Interrupted("training was stopped before its first step; the same command starts it")
                self.strategy.objective.train()
                last = self._train_from(done)
            self._wait_for_saver()
        finally:
            self.saver.close()
            self.tracker.close()
        return Outcome(self.log, self._take_best(last), self.tracker.throughput())

    def _train_from(self, done: int) -> int:
        """All steps behind `done`; the last one that was taken."""
        taken = any(row["step"] == done and "eval_loss" in row for row in self.log)
        if done and not taken and self.evaluates(done):  # it was dropped, or the run ended in it
            self._evaluate(done)
        if self._is_over():
            return done
        for step in range(done + 1, self.plan.total + 1):
            self._merge_if_due(step)
            metrics = self._train_step(step)
            self._tell_written()
            stop = self._read_pending()  # of the step before, while this one is under way
            if metrics.on_device is None or self.strategy.ranks == 1:  # nobody waits for a device, so the step under way is the last
                stop |= self.strategy.any(self.signals.caught is not None)
            self.pending.append(metrics)
            is_boundary = stop or step == self.plan.total or self.evaluates(step) or self.saves(step)
            if is_boundary or metrics.on_device is None:
                stop |= self._read_pending()
            if (is_boundary or stop) and self._end_step(step, stop):
                return step
            if step % COLLECT_EVERY == 0:
                gc.collect()
        return max(done, self.plan.total)

    def _train_step(self, step: int) -> PendingMetrics:
        training = self.config.training
        self.signals.doing = f"step ({step} of {self.plan.total})"
        if self.strategy.ranks > 1 and self.strategy.device.type == "cuda":  # its flag is read when the next one is under way
            self.signals.doing += " or the one behind it"
        learning_rate = training.learning_rate * self.schedule.factor(step - 1)
        momentum = self.schedule.momentum(step - 1) if self.schedule.momentum else None
        set_lr_and_betas(self.strategy.optimizer, learning_rate, momentum)
        return train_step(
            self.strategy,
            self.rows,
            self.plan.rows_of(step - 1),
            step=step,
            seed=training.seed,
            micro_batch_size=self.config.machine.micro_batch_size,
            learning_rate=learning_rate,
            flops=self.flops,
            stop=lambda: self.signals.caught is not None,
        )

    def _read_pending(self) -> bool:
        """Log the metrics of the steps that are over; whether a process was told to stop."""
        training, stop = self.config.training, False
        while self.pending:
            metrics = self.pending.pop(0)
            found = metrics.result()
            self.tracker.step(metrics.step, metrics.step / self.plan.steps_per_epoch, found, metrics.learning_rate)
            stop |= found.stop
            if is_diverged(self.log, metrics.step, training):
                raise TrainError(
                    f"step {metrics.step}: the loss was above loss_watchdog_threshold {training.loss_watchdog_threshold:g} for "
                    f"{training.loss_watchdog_patience} steps, it is {found.loss:.3f}; lower learning_rate, or look at the data"
                )
        return stop

    def _end_step(self, step: int, stop: bool) -> bool:
        """Evaluate and write a checkpoint where they are due; whether training ends early."""
        last, evaluates = step == self.plan.total, self.evaluates(step)
        if last or stop:  # a run that ends has a checkpoint, whatever becomes of its evaluation and of what is written then
            self._save(f"step-{step}", step, wait=True)
        if stop:
            raise self._interrupted(step)
        if evaluates:
            self._evaluate(step, has_checkpoint=last)
        if last and self.strategy.main:
            store.replace_log(self.run.folder, f"step-{step}", self.log)
        over = evaluates and self._is_over()
        if (self.saves(step) or over) and not last:
            self._save(f"step-{step}", step)
        if over:
            self.tracker.print(f"no better evaluation in {self.config.training.early_stopping_patience}: stopped at step {step}")
        return over

    def _interrupted(self, step: int) -> Interrupted:
        return Interrupted(
            f"training was stopped: checkpoint {self.run.folder / f'step-{step}'} was written, the same command resumes from it"
        )

    def _merge_if_due(self, step: int) -> None:
        """ReLoRA: merge the update into the base before step `step` and reset the optimizer's state of it."""
        if not self.relora or not self.relora.due(step - 1):
            return
        self._wait_for_saver()  # it links the file that is replaced
        seed_everything(self.config.training.seed, step - 1)  # the same new adapter in every process and after a resume
        parameters = self.relora.merge(self.run.folder, step - 1, self.strategy)
        reset_state(unwrap_optimizer(self.strategy.optimizer), parameters, keep=1 - self.config.adapter.relora_prune_ratio)
        self.tracker.print(f"step {step - 1}/{self.plan.total}  merged into the base, the adapter is reinitialised")

    def _take_evaluation(self, step: int) -> bool:
        """Log the metrics of the validation rows; False where a signal ended that, of which nothing is kept."""
        assert self.evaluate is not None
        gc.collect()
        self.signals.doing = f"batch of the evaluation (step {step} of {self.plan.total}), which is taken up again"
        found = self.evaluate(lambda: self.strategy.any(self.signals.caught is not None))
        if found is not None:
            self.tracker.evaluated(step, found)
        return found is not None

    def _evaluate(self, step: int, *, has_checkpoint: bool = True) -> None:
        """Evaluate, show the predictions, and keep the weights if they are the best so far."""
        if not self._take_evaluation(step):
            if not has_checkpoint:
                self._save(f"step-{step}", step, wait=True)
            raise self._interrupted(step)
        rows = self.predict() if self.predict and self.loggers else []
        for logger in self.loggers if rows else ():
            logger.table(step, rows)
        if self._best() == step:
            self._save(f"{BEST}-{step}", step, with_optimizer=False)

    def evaluates(self, step: int) -> bool:
        """Whether the validation rows are evaluated after step `step` (from 1); always after the last."""
        training = self.config.training
        if self.evaluate is None or training.evaluation_strategy == "no":
            return self.evaluate is not None and step == self.plan.total
        return step == self.plan.total or self._is_due(step, training.evals_per_epoch, training.eval_steps)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is written after step `step` (from 1)."""
        tracking = self.config.tracking
        if tracking.save_strategy == "no" or tracking.saves_per_epoch == 0:
            return False
        return self._is_due(step, tracking.saves_per_epoch, tracking.save_steps)

    def _is_due(self, step: int, an_epoch: int | None, steps: float | None) -> bool:
        """So often an epoch, every so many steps, or at the end of each epoch."""
        if an_epoch:
            return self.plan.ends_part(step - 1, an_epoch)
        every = self._steps_of(steps)
        return step % every == 0 if every else self.plan.ends_epoch(step - 1)

    def _steps_of(self, steps: float | None) -> int | None:
        """Below 1: a share of the run."""
        return steps if steps is None or isinstance(steps, int) else max(1, math.ceil(steps * self.plan.total))

    def _save(self, name: str, step: int, *, with_optimizer: bool = True, wait: bool = False) -> None:
        """wait: until it is in place."""
        self._wait_for_saver()
        strategy, started = self.strategy, time.perf_counter()
        parts = strategy.weight_parts()
        states: States = {}
        if with_optimizer:
            state_parts, states = strategy.state_parts()
            parts |= state_parts
        scaler = strategy.scaler.state_dict() if strategy.scaler else {}
        merged = self.relora.merged if self.relora else None
        self.saver.save(name, Snapshot(step, parts, states, self.log, self.run.identity, merged, scaler), wait=wait)
        self.tracker.saved(time.perf_counter() - started)
        self._tell_written()

    def _wait_for_saver(self) -> None:
        """Loggers are told of a checkpoint before another one takes its place."""
        started = time.perf_counter()
        self.saver.wait()
        self.tracker.saved(time.perf_counter() - started)
        self._tell_written()

    def _tell_written(self) -> None:
        """Tell the loggers of checkpoints that are in place."""
        for name in self.saver.take_written():
            kind, _, step = name.partition("-")
            for logger in self.loggers if kind != BEST else ():
                logger.saved(int(step), self.run.folder / name)

    def _restore(self, start: Checkpoint) -> None:
        if self.relora and start.merged:
            self.relora.restore(self.run.folder, start.merged, self.strategy)
        self.strategy.init_optimizer_state(self.rows.batch([0]).place(self.strategy.device))
        files = start.tensors()
        self.strategy.load_weights(files)
        self.strategy.load_states(files, start.states)
        if self.strategy.scaler and start.scaler:
            self.strategy.scaler.load_state_dict(start.scaler)
        if self._best() == start.step:
            self._save(f"{BEST}-{start.step}", start.step, with_optimizer=False)

    def _peak_flops(self) -> float:
        """Of all processes' devices together."""
        dtype = self.strategy.precision.autocast or self.strategy.precision.frozen
        return peak_flops(self.strategy.device, dtype) * self.strategy.ranks

    def _is_over(self) -> bool:
        return is_over(self.log, self.config.training, self.branched_at)

    def _best(self) -> int | None:
        """The step whose weights are the result, if they are not the last; None where the best are not kept."""
        return best_step(self.log, self.config.training, self.branched_at) if keeps_best(self.config.training) else None

    def _take_best(self, last: int) -> int:
        best = self._best()
        if best is None or best == last:
            return last
        if bad := missing_best(self.run.folder, best):
            raise TrainError(f"{self.run.folder}: {bad}; the same command resumes from the checkpoint before it")
        self.strategy.load_weights(store.read(self.run.folder / f"{BEST}-{best}").tensors())
        self.tracker.print(f"the weights are those of step {best}, the best evaluation")
        return best
