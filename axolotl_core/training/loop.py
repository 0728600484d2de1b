"""The training run: from a plan of rows to trained weights, resumable at every checkpoint.

    for each step: its rows → micro-batches → one optimizer step → log → evaluate? → checkpoint?

Everything that the result depends on is in a checkpoint or follows from the step: the rows, the learning rate, what is
drawn. So a run that was killed ends with the same bytes as one that was not. The numbers of a step are read when the next
one is under way, so that the device never waits; before an evaluation or a checkpoint they are read at once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from axolotl_core.adapters.relora import Restarts
from axolotl_core.errors import Interrupted, TrainError
from axolotl_core.params.machine import Machine
from axolotl_core.params.tracking import Tracking
from axolotl_core.params.training import Training
from axolotl_core.training import checkpoint, whole
from axolotl_core.training.batches import RowSource
from axolotl_core.training.checkpoint import Checkpoint
from axolotl_core.training.optim import forget, set_rates
from axolotl_core.training.parallel import Parallel
from axolotl_core.training.plan import Plan
from axolotl_core.training.schedule import Schedule
from axolotl_core.training.step import Report, seed_everything, train_step
from axolotl_core.training.stop import Signals, best_step, is_lost, is_over, keeps_best
from axolotl_core.training.track import Listener, Tracker

Measure = Callable[[Callable[[], bool]], dict[str, Any] | None]
"""The held-out numbers, as `evaluation.measure` gives them; asked after each batch whether to stop, and None then."""


@dataclass(frozen=True)
class Outcome:
    """What a run says of itself when it is over. step: whose weights the model has."""

    log: list[dict[str, Any]]
    step: int
    tokens_per_s: float


class Loop:
    """One run: `parallel` holds the wrapped model and optimizer; run: the folder of its checkpoints, which is locked.

    prune: share of the optimizer's state that goes with each of the restarts; predict: rows of the table of predictions;
    since: the step of the checkpoint that the run branches from, whose evaluations are another run's.
    """

    def __init__(
        self,
        parallel: Parallel,
        rows: RowSource,
        plan: Plan,
        schedule: Schedule,
        run: Path,
        *,
        identity: dict[str, Any],
        training: Training,
        machine: Machine,
        tracking: Tracking,
        measure: Measure | None = None,
        restarts: Restarts | None = None,
        prune: float = 1.0,
        listeners: Sequence[Listener] = (),
        predict: Callable[[], list[dict[str, Any]]] | None = None,
        since: int = 0,
    ) -> None:
        self.parallel, self.rows, self.plan, self.schedule, self.run = parallel, rows, plan, schedule, run
        self.identity, self.training, self.machine, self.tracking = identity, training, machine, tracking
        self.measure, self.restarts, self.prune = measure, restarts, prune
        self.listeners, self.predict, self.since = listeners, predict, since

    def train(self, start: Checkpoint | None, told: Sequence[str] = ()) -> Outcome:
        """From a checkpoint or from the beginning. Raises TrainError for a loss that is not finite, Interrupted for a signal."""
        done, self.log = (start.step, start.log) if start else (0, [])
        if start:
            self._restore(start)
        tracker = Tracker(
            self.plan.total,
            done,
            self.log,
            self._every(self.tracking.logging_steps) or 1,
            self.listeners,
            watch=self.training.loss_watchdog_threshold,
            quiet=not self.parallel.main,
        )
        for sentence in told:
            tracker.say(sentence)
        try:
            with Signals(quiet=not self.parallel.main).listening() as signals:
                if self.measure and not self.log and not self._measured(0, tracker, signals):
                    raise Interrupted("training was asked to end before its first step; the same command begins it")
                self.parallel.objective.train()
                last = self._steps(done, tracker, signals)
        finally:
            tracker.close()
        return Outcome(self.log, self._take_best(last, tracker), tracker.tokens_per_s)

    def _steps(self, done: int, tracker: Tracker, signals: Signals) -> int:
        waiting: list[tuple[Report, float]] = []
        stop = False

        def read_all() -> bool:
            asked = False
            while waiting:
                report, learning_rate = waiting.pop(0)
                numbers = report.arrive()
                tracker.step(report.step, report.step / self.plan.steps_per_epoch, numbers, learning_rate)
                asked |= numbers.stop
                if is_lost(self.log, report.step, self.training):
                    raise TrainError(
                        f"step {report.step}: the loss was above loss_watchdog_threshold {self.training.loss_watchdog_threshold:g} for "
                        f"{self.training.loss_watchdog_patience} steps, it is {numbers.loss:.3f}; lower learning_rate, or look at the data"
                    )
            return asked

        taken = any(row["step"] == done and "eval_loss" in row for row in self.log)
        if done and not taken and self.measure and self.evaluates(done):  # it was dropped, or the run ended in it
            self._evaluate(done, tracker, signals)
        if is_over(self.log, self.training, self.since):
            return done
        step = done
        for step in range(done + 1, self.plan.total + 1):
            if self.restarts and self.restarts.due(step - 1):
                seed_everything(self.training.seed, step - 1)  # the same new adapter in every process and after a resume
                reset = self.restarts.merge(self.run, step - 1, self.parallel)
                forget(whole.inner(self.parallel.optimizer), reset, keep=1 - self.prune)
                tracker.say(f"step {step - 1}/{self.plan.total}  merged into the base, the adapter begins anew")
            signals.doing = f"step ({step} of {self.plan.total})"
            if self.parallel.world > 1 and self.parallel.device.type == "cuda":  # its flag is read when the next one is under way
                signals.doing += " or the one behind it"
            learning_rate = self.training.learning_rate * self.schedule.factor(step - 1)
            momentum = self.schedule.momentum(step - 1) if self.schedule.momentum else None
            set_rates(self.parallel.optimizer, learning_rate, momentum)
            report = train_step(
                self.parallel,
                self.rows,
                self.plan.rows_of(step - 1),
                step=step,
                seed=self.training.seed,
                micro_batch_size=self.machine.micro_batch_size,
                stop=lambda: signals.caught is not None,
            )
            stop |= read_all()
            if report.arrived is None or self.parallel.world == 1:  # nobody waits for a device, so the step under way is the last
                stop |= self.parallel.any(signals.caught is not None)
            waiting.append((report, learning_rate))
            evaluates, saves = self.measure is not None and self.evaluates(step), self.saves(step)
            if evaluates or saves or stop or report.arrived is None or step == self.plan.total:
                stop |= read_all()
            last = step == self.plan.total
            if last or stop:  # a run that is over has a checkpoint, whatever becomes of its evaluation and of what is written then
                self._end_if_asked(step, stop)
            if evaluates:
                self._evaluate(step, tracker, signals, saved=last)
            if last and self.parallel.main:
                checkpoint.replace_log(self.run, f"step-{step}", self.log)
            over = evaluates and is_over(self.log, self.training, self.since)
            if (saves or over) and not last:
                self._save(f"step-{step}", step)
                tracker.pause()
            if over:
                tracker.say(f"no better evaluation in {self.training.early_stopping_patience}: stopped at step {step}")
                break
        return step

    def _end_if_asked(self, step: int, stop: bool, *, saved: bool = False) -> None:
        """Write the checkpoint of a step, which a run that was asked to end goes on from."""
        if not saved:
            self._save(f"step-{step}", step)
        if stop:
            raise Interrupted(
                f"training was asked to end: checkpoint {self.run / f'step-{step}'} was written, the same command goes on from it"
            )

    def _measured(self, step: int, tracker: Tracker, signals: Signals) -> bool:
        """Take the validation numbers; False where a signal ended that, of which nothing is kept."""
        assert self.measure is not None
        signals.doing = f"batch of the evaluation (step {step} of {self.plan.total}), which is taken up again"
        found = self.measure(lambda: self.parallel.any(signals.caught is not None))
        if found is not None:
            tracker.evaluated(step, found)
        return found is not None

    def _evaluate(self, step: int, tracker: Tracker, signals: Signals, *, saved: bool = True) -> None:
        """Take the validation numbers, show the predictions, and keep the weights if they are the best so far.

        saved: whether the step's checkpoint is written already.
        """
        if not self._measured(step, tracker, signals):
            self._end_if_asked(step, stop=True, saved=saved)
        rows = self.predict() if self.predict and self.listeners else []
        for listener in self.listeners if rows else ():
            listener.table(step, rows)
        if self._best() == step:
            self._save(f"{checkpoint.BEST}-{step}", step, with_optimizer=False)

    def evaluates(self, step: int) -> bool:
        """Whether held-out rows are measured after step `step` (from 1); always after the last."""
        if step == self.plan.total:
            return True
        if self.training.evaluation_strategy == "no":
            return False
        if self.training.evals_per_epoch:
            return self.plan.ends_part(step - 1, self.training.evals_per_epoch)
        every = self._every(self.training.eval_steps)
        return step % every == 0 if every else self.plan.ends_epoch(step - 1)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is written after step `step` (from 1)."""
        if self.tracking.save_strategy == "no" or self.tracking.saves_per_epoch == 0:
            return False
        if self.tracking.saves_per_epoch:
            return self.plan.ends_part(step - 1, self.tracking.saves_per_epoch)
        every = self._every(self.tracking.save_steps)
        return step % every == 0 if every else self.plan.ends_epoch(step - 1)

    def _every(self, steps: float | None) -> int | None:
        """Below 1: a share of the run."""
        return steps if steps is None or isinstance(steps, int) else max(1, math.ceil(steps * self.plan.total))

    def _save(self, name: str, step: int, *, with_optimizer: bool = True) -> None:
        weights = whole.weights(self.parallel)
        states = whole.optimizer_states(self.parallel) if with_optimizer else {}
        if self.parallel.main:
            scaler = self.parallel.scaler.state_dict() if self.parallel.scaler else {}
            merged = self.restarts.merged if self.restarts else None
            saved = Checkpoint(step, weights, states, self.log, self.identity, merged, scaler)
            checkpoint.save(self.run, name, saved)
            checkpoint.rotate(self.run, self.tracking.save_total_limit)
            for listener in self.listeners if with_optimizer else ():
                listener.saved(step, self.run / name)
        self.parallel.wait()

    def _best(self) -> int | None:
        """The step whose weights are the result, if they are not the last; None where the best are not kept."""
        return best_step(self.log, self.training, self.since) if keeps_best(self.training) else None

    def _restore(self, start: Checkpoint) -> None:
        if self.restarts and start.merged:
            self.restarts.restore(self.run, start.merged, self.parallel)
        self.parallel.prime(self.rows.batch([0]).place(self.parallel.device))
        whole.load_weights(self.parallel, start.weights)
        whole.load_optimizer_states(self.parallel, start.optimizer)
        if self.parallel.scaler and start.scaler:
            self.parallel.scaler.load_state_dict(start.scaler)
        if self._best() == start.step:
            self._save(f"{checkpoint.BEST}-{start.step}", start.step, with_optimizer=False)

    def _take_best(self, last: int, tracker: Tracker) -> int:
        best = self._best()
        if best is None or best == last:
            return last
        if bad := checkpoint.without_best(self.run, best):
            raise TrainError(f"{self.run}: {bad}; the same command goes on from the checkpoint before it")
        whole.load_weights(self.parallel, checkpoint.read(self.run / f"{checkpoint.BEST}-{best}").weights)
        tracker.say(f"the weights are those of step {best}, the best evaluation")
        return best
