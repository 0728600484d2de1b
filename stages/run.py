"""How a stage is run: key, up to date or not, inputs verified, built aside, put in place whole.

1. key      stage, revision, the sections it declares, the content digests of its inputs
2. skip     if keys/<output>.json has this key and the artifact is the one it was written for
3. find     in .axolotl/store, which keeps finished results by key: DVC removes a stage's outs before it calls us
4. build    see build.py
"""

import multiprocessing
import multiprocessing.connection
import os
import shutil
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import groupby
from pathlib import Path

from axolotl_core import terminal, world
from axolotl_core.artifacts import store
from axolotl_core.artifacts.scratch import sweep
from axolotl_core.errors import ArtifactError, AxolotlError, MachineError
from axolotl_core.params.fallbacks import settle
from axolotl_core.params.whole import Params
from stages.build import build, restore, take_part, up_to_date
from stages.graph import Step, chosen, upstream
from stages.job import Project
from stages.keys import key_of
from stages.launch import launch, processes_of


def run(project: Project, params: Params, name: str, *, only: bool = False, force: bool = False, branch: Path | None = None) -> int:
    """Bring a stage up to date, and all it reads unless `only`; prints a line a stage, returns how many were run.

    Stages that exist once a data set run side by side, in processes of their own. train starts itself under torchrun
    where params.yaml or the GPUs ask for several processes; in such a process only train itself is run. branch: a
    checkpoint that train goes on from.
    """
    built = 0
    targets = chosen(name, params.datasets)
    _sweep(project, targets)
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
                stale.append((step, key))
        if stale and stale[0][0].stage.name == "train":
            params, notices = settle(params)
            for notice in notices if world.rank() == 0 else ():
                terminal.say(f"  {notice}")
        if world.launched():
            for step, key in stale:
                together(project, params, step, key, branch, trained_here=step in targets, force=force)
            built += len(stale)
            continue
        if stale and stale[0][0].stage.name == "train" and (count := processes_of(params)) is not None:
            launch(project, params, count, force=force, branch=branch)
            built += 1
            continue
        processes = min(len(stale), params.machine.dataset_processes or os.cpu_count() or 1)
        if processes > 1:
            side_by_side(project, params, stale, processes)
        else:
            for step, key in stale:
                say(step, build(project, params, step, key, branch, force=force and step in targets).said)
        built += len(stale)
    if built and world.rank() == 0:
        for old in store.superseded(store.results(project.store)):
            shutil.rmtree(old.folder, ignore_errors=True)
    return built


def together(project: Project, params: Params, step: Step, key: str, branch: Path | None, *, trained_here: bool, force: bool) -> None:
    """One of several processes: rank 0 builds as ever, the others train along and write nothing."""
    if step.stage.name != "train" or not trained_here:
        raise ArtifactError(f"{step.name} is out of date; run `axolotl stage {step.name}` first, in one process")
    if world.rank() == 0:
        say(step, build(project, params, step, key, branch, force=force).said)
        return
    take_part(project, params, step, key, branch, force=force)


def side_by_side(project: Project, params: Params, stale: Sequence[tuple[Step, str]], processes: int) -> None:
    """Build steps that do not read each other in `processes` processes. What one of them raises stops none of the others."""
    one_each = params.model_copy(update={"machine": params.machine.model_copy(update={"dataset_processes": 1})})
    threads = max(1, (os.cpu_count() or 1) // processes)
    errors: list[AxolotlError] = []
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_start, initargs=(threads,)) as pool:
        running = {pool.submit(_build, project, one_each, step, key): step for step, key in stale}
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


def _start(threads: int) -> None:
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    end_with_parent()


def _build(project: Project, params: Params, step: Step, key: str) -> str:
    return build(project, params, step, key).said


def say(step: Step, told: str) -> None:
    if world.rank() == 0:
        terminal.say(f"{step.name:<20} {told}")


def _sweep(project: Project, targets: Iterable[Step]) -> None:
    """Remove what processes that were killed left beside artifacts."""
    paths = {project.artifacts / path for step in targets for path in (step.output, step.key_file, *step.also)}
    for folder in {path.parent for path in paths} | {project.root, project.scratch, project.store}:
        sweep(folder)


def end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""

    def watch(sentinel: int) -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    if parent := multiprocessing.parent_process():
        threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
