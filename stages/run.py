"""Running the pipeline: the plan, executed step by step as inputs are made.

1. decide   plan.py: up to date, kept from before, or to run
2. restore  from .axolotl/store, which keeps finished results by key: DVC removes a stage's outs before it calls us
3. build    build.py; steps of datasets side by side, each as soon as what it reads is there
"""

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from axolotl_core import terminal, world
from axolotl_core.artifacts import store
from axolotl_core.artifacts.scratch import sweep
from axolotl_core.errors import ArtifactError, AxolotlError, MachineError
from axolotl_core.params.fallbacks import settle
from axolotl_core.params.params import Params
from axolotl_core.stages import keys
from axolotl_core.stages.build import build, remember, restore, take_part
from axolotl_core.stages.graph import Step, chosen, makers, upstream
from axolotl_core.stages.job import Project
from axolotl_core.stages.launch import launch, processes_of
from axolotl_core.stages.plan import decide
from axolotl_core.stages.survey import Survey


def run(project: Project, params: Params, name: str, *, only: bool = False, force: bool = False, branch: Path | None = None) -> int:
    """Bring a stage up to date, and all it reads unless `only`; prints a line per step, returns how many were run.

    train starts itself under torchrun where params.yaml or the GPUs ask for several processes; in such a process only train itself is
    run. branch: a checkpoint that train resumes from.
    """
    targets = chosen(name, params.datasets)
    chain = targets if only else upstream(targets, params.datasets)
    _sweep(project, targets)
    with ExitStack() as stack:
        built = Execution(project, params, chain, targets, force, branch, stack).run()
    if built and world.rank() == 0:
        for old in store.superseded(store.results(project.store)):
            store.remove(old.folder)
    return built


class Execution:
    """Steps on their way. chain: in an order in which they can run; force: whether the targets run although they are up to date."""

    def __init__(
        self,
        project: Project,
        params: Params,
        chain: Sequence[Step],
        targets: Sequence[Step],
        force: bool,
        branch: Path | None,
        stack: ExitStack,
    ) -> None:
        self.project, self.params, self.branch, self.stack = project, params, branch, stack
        self.targets = frozenset(targets)
        self.forced = self.targets if force else frozenset()
        self.datasets = sorted(params.datasets)
        self.processes = min(len(params.datasets), params.machine.dataset_processes or os.cpu_count() or 1)
        self.waiting, self.built = list(chain), 0
        self.unmade = set(chain)
        self.running: dict[Future[str], Step] = {}
        self.errors: list[AxolotlError] = []

    def run(self) -> int:
        """All steps; how many were not up to date. What one of them raises stops none that is running."""
        while self.waiting and not self.errors:
            stale = self._ready()
            of_datasets = [step for step in stale if step.stage.each]
            if min(len(of_datasets) + len(self.running), self.processes) > 1:
                self.running |= {self.executor.submit(_build, step): step for step in of_datasets}
                stale = [step for step in stale if not step.stage.each]
            for step in stale:
                if not self.errors:
                    self._here(step)
            if self.running and not stale:
                self._collect()
        while self.running:
            self._collect()
        if self.errors:
            raise self.errors[0] if len(self.errors) == 1 else type(self.errors[0])("\n".join(map(str, self.errors)))
        return self.built

    def _ready(self) -> list[Step]:
        """Steps to build whose inputs are made; those that are up to date or kept are done with on the way."""
        stale = []
        for step in self.waiting:
            if self.unmade.isdisjoint(makers(step, self.datasets)):
                if self._is_done(step):
                    self.unmade.remove(step)
                else:
                    stale.append(step)
        left = self.unmade.difference(stale)
        self.waiting = [step for step in self.waiting if step in left]
        return stale

    def _is_done(self, step: Step) -> bool:
        if step in self.forced:
            return False
        survey = Survey(self.project, self.params, self.branch)
        planned = decide(step, survey.observe(step), survey.kept)
        match planned.state:
            case "missing-input":
                keys.inputs(self.project, self.params, step, self.branch)  # says what is missing
                raise planned.error or ArtifactError(f"{planned.because[0].name}: is missing")
            case "up-to-date":
                _print(step, "up to date")
                return True
        if world.launched() or not planned.kept or not planned.key or not restore(self.project, step, planned.key):
            return False
        _print(step, "restored from .axolotl/store")
        self.built += 1
        return True

    def _here(self, step: Step) -> None:
        """Build a step in this process, or in those that train together."""
        try:
            if step.stage.name == "train":
                self._train(step)
            elif world.launched():
                raise ArtifactError(f"{step.name} is out of date; run `axolotl stage {step.name}` first, in one process")
            else:
                _print(step, build(self.project, self.params, step, self.branch, force=step in self.forced).summary)
            self._made(step)
        except AxolotlError as error:
            self.errors.append(error)

    def _made(self, step: Step) -> None:
        self.unmade.remove(step)
        self.built += 1

    def _train(self, step: Step) -> None:
        if world.launched() and step not in self.targets:
            raise ArtifactError("train is out of date; run `axolotl stage train` first")
        self.params, notes = settle(self.params)
        for note in notes if world.rank() == 0 else ():
            terminal.say(f"  {note}")
        force = step in self.forced
        if world.rank() != 0:
            take_part(self.project, self.params, step, self.branch, force=force)
        elif not world.launched() and (count := processes_of(self.params)) is not None:
            remember(self.project, self.params, step)
            launch(self.project, self.params, count, force=force, branch=self.branch)
        else:
            _print(step, build(self.project, self.params, step, self.branch, force=force).summary)

    def _collect(self) -> None:
        """Wait for the next of the running steps."""
        for future in wait(self.running, return_when=FIRST_COMPLETED).done:
            step = self.running.pop(future)
            try:
                _print(step, future.result())
                self._made(step)
            except AxolotlError as error:
                self.errors.append(error)
            except BrokenProcessPool:
                raise MachineError(
                    f"{step.name}: its process was killed, perhaps for want of memory; try machine.dataset_processes: 1"
                ) from None

    @cached_property
    def executor(self) -> ProcessPoolExecutor:
        """Processes that build steps of datasets, started when there is the first work for them."""
        params = self.params.model_copy(update={"machine": self.params.machine.model_copy(update={"dataset_processes": 1})})
        threads = max(1, (os.cpu_count() or 1) // self.processes)
        given = (self.project.root, self.project.anew, params, threads)
        made = ProcessPoolExecutor(self.processes, multiprocessing.get_context("spawn"), initializer=_start, initargs=given)
        return self.stack.enter_context(made)


_worker: tuple[Project, Params] | None = None


def _start(root: Path, anew: bool, params: Params, threads: int) -> None:
    global _worker
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    _worker = Project(root, anew), params
    world.end_with_parent()


def _build(step: Step) -> str:
    assert _worker is not None
    project, params = _worker
    return build(project, params, step).summary


def _print(step: Step, line: str) -> None:
    if world.rank() == 0:
        terminal.say(f"{step.name:<20} {line}")


def _sweep(project: Project, targets: Sequence[Step]) -> None:
    """Remove what processes that were killed left beside artifacts."""
    paths = {project.artifacts / path for step in targets for path in (step.output, step.key_file, *step.also)}
    for folder in {path.parent for path in paths} | {project.scratch, project.store}:
        sweep(folder)
