"""How a stage is run: key, up to date or not, inputs verified, built aside, put in place whole.

1. key      stage, revision, the sections it declares, the content digests of its inputs
2. skip     if keys/<output>.json has this key and the artifact is the one it was written for
3. find     in .axolotl/store, which keeps finished results by key: DVC removes a stage's outs before it calls us
4. build    see build.py
"""

import multiprocessing
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from functools import cached_property
from itertools import groupby
from pathlib import Path
from types import TracebackType

from axolotl_core import terminal, world
from axolotl_core.artifacts import store
from axolotl_core.artifacts.scratch import sweep
from axolotl_core.errors import ArtifactError, AxolotlError, MachineError
from axolotl_core.params.fallbacks import settle
from axolotl_core.params.params import Params
from axolotl_core.stages.build import build, remember, restore, take_part, up_to_date
from axolotl_core.stages.graph import Step, chosen, upstream
from axolotl_core.stages.job import Project
from axolotl_core.stages.keys import key_of
from axolotl_core.stages.launch import launch, processes_of


def run(project: Project, params: Params, name: str, *, only: bool = False, force: bool = False, branch: Path | None = None) -> int:
    """Bring a stage up to date, and all it reads unless `only`; prints a line a stage, returns how many were run.

    Stages that exist per dataset run side by side, in processes of their own. train starts itself under torchrun
    where params.yaml or the GPUs ask for several processes; in such a process only train itself is run. branch: a
    checkpoint that train resumes from.
    """
    targets = chosen(name, params.datasets)
    _sweep(project, targets)
    with Pool(project, params) as pool:
        built = _waves(project, params, targets, pool, only=only, force=force, branch=branch)
    if built and world.rank() == 0:
        for old in store.superseded(store.results(project.store)):
            store.remove(old.folder)
    return built


def _waves(project: Project, params: Params, targets: Sequence[Step], pool: "Pool", *, only: bool, force: bool, branch: Path | None) -> int:
    """Stage by stage; the steps of one do not read each other."""
    built = 0
    for _, wave in groupby(targets if only else upstream(targets, params.datasets), key=lambda step: step.stage.name):
        stale = []
        for step in wave:
            key = key_of(project, params, step, branch)
            again = force and step in targets
            if not again and up_to_date(project, step, key):
                say(step, "up to date")
            elif not again and not world.launched() and restore(project, step, key):
                say(step, "made before, from .axolotl/store")
                built += 1
            else:
                stale.append(step)
        if stale and stale[0].stage.name == "train":
            params, notices = settle(params)
            for notice in notices if world.rank() == 0 else ():
                terminal.say(f"  {notice}")
        if world.launched():
            for step in stale:
                together(project, params, step, branch, trained_here=step in targets, force=force)
            built += len(stale)
            continue
        if stale and stale[0].stage.name == "train" and (count := processes_of(params)) is not None:
            for step in stale:
                remember(project, params, step)
            launch(project, params, count, force=force, branch=branch)
            built += 1
            continue
        if min(len(stale), pool.processes) > 1:
            pool.build(stale)
        else:
            for step in stale:
                say(step, build(project, params, step, branch, force=force and step in targets).said)
        built += len(stale)
    return built


def together(project: Project, params: Params, step: Step, branch: Path | None, *, trained_here: bool, force: bool) -> None:
    """One of several processes: rank 0 builds as ever, the others train along and write nothing."""
    if step.stage.name != "train" or not trained_here:
        raise ArtifactError(f"{step.name} is out of date; run `axolotl stage {step.name}` first, in one process")
    if world.rank() == 0:
        say(step, build(project, params, step, branch, force=force).said)
        return
    take_part(project, params, step, branch, force=force)


class Pool:
    """Processes that build steps side by side, started when there is the first work for them, and kept for the next stage."""

    def __init__(self, project: Project, params: Params) -> None:
        self.processes = min(len(params.datasets), params.machine.dataset_processes or os.cpu_count() or 1)
        self.params = params.model_copy(update={"machine": params.machine.model_copy(update={"dataset_processes": 1})})
        self.project, self.stack = project, ExitStack()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stack.close()

    @cached_property
    def executor(self) -> ProcessPoolExecutor:
        threads = max(1, (os.cpu_count() or 1) // self.processes)
        given = (self.project.root, self.project.anew, self.params, threads)
        made = ProcessPoolExecutor(self.processes, multiprocessing.get_context("spawn"), initializer=_start, initargs=given)
        return self.stack.enter_context(made)

    def build(self, stale: Sequence[Step]) -> None:
        """Build steps that do not read each other. What one of them raises stops none of the others."""
        errors: list[AxolotlError] = []
        running = {self.executor.submit(_build, step): step for step in stale}
        for done in as_completed(running):
            try:
                say(running[done], done.result())
            except AxolotlError as error:
                errors.append(error)
            except BrokenProcessPool:
                raise MachineError(
                    f"{running[done].name}: its process was killed, perhaps for want of memory; try machine.dataset_processes: 1"
                ) from None
        if errors:
            raise type(errors[0])("\n".join(map(str, errors)))


_worker: tuple[Project, Params] | None = None


def _start(root: Path, anew: bool, params: Params, threads: int) -> None:
    global _worker
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    _worker = Project(root, anew), params
    world.end_with_parent()


def _build(step: Step) -> str:
    assert _worker is not None
    project, params = _worker
    return build(project, params, step).said


def say(step: Step, told: str) -> None:
    if world.rank() == 0:
        terminal.say(f"{step.name:<20} {told}")


def _sweep(project: Project, targets: Iterable[Step]) -> None:
    """Remove what processes that were killed left beside artifacts."""
    paths = {project.artifacts / path for step in targets for path in (step.output, step.key_file, *step.also)}
    for folder in {path.parent for path in paths} | {project.scratch, project.store}:
        sweep(folder)
