"""How a stage is run: key, up to date or not, inputs verified, built aside, put in place whole.

1. key      stage, revision, the sections it declares, the content digests of its inputs
2. skip     if keys/<output>.json has this key and the artifact is the one it was written for
3. verify   every file of every input against its manifest
4. build    in .axolotl/tmp, by the stage's own function
5. publish  manifest last, fsync, rename; then metrics and plots; then the key file
"""

import importlib
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from axolotl_core import world
from axolotl_core.artifacts import manifest
from axolotl_core.artifacts.checkpoints import branch_digest
from axolotl_core.artifacts.key import digest_file, stage_key
from axolotl_core.artifacts.scratch import building, replace, write_atomically
from axolotl_core.errors import ArtifactError, AxolotlError, MachineError
from axolotl_core.params.fallbacks import settle
from axolotl_core.params.whole import Params
from axolotl_core.sources import outside
from stages.graph import Step, chosen, upstream
from stages.job import Job, Project, Result
from stages.launch import launch, processes_of

PROVENANCE = ("axolotl", "torch", "transformers", "peft", "accelerate", "tokenizers", "pyarrow")


def run(project: Project, params: Params, name: str, *, only: bool = False, force: bool = False, branch: Path | None = None) -> int:
    """Bring a stage up to date, and all it reads unless `only`; prints a line a stage, returns how many were run.

    Stages that exist once a data set run side by side, in processes of their own. train starts itself under torchrun
    where params.yaml or the GPUs ask for several processes; in such a process only train itself is run. branch: a
    checkpoint that train goes on from.
    """
    built = 0
    targets = chosen(name, params.datasets)
    for _, wave in groupby(targets if only else upstream(targets, params.datasets), key=lambda step: step.stage.name):
        stale = []
        for step in wave:
            key = key_of(project, params, step, branch)
            if up_to_date(project, step, key) and not (force and step in targets):
                say(step, "up to date")
            else:
                stale.append((step, key))
        if stale and stale[0][0].stage.name == "train":
            params, notices = settle(params)
            for notice in notices if world.rank() == 0 else ():
                print(f"  {notice}", flush=True)
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
    return built


def together(project: Project, params: Params, step: Step, key: str, branch: Path | None, *, trained_here: bool, force: bool) -> None:
    """One of several processes: rank 0 builds as ever, the others train along and write nothing."""
    if step.stage.name != "train" or not trained_here:
        raise ArtifactError(f"{step.name} is out of date; run `axolotl stage {step.name}` first, in one process")
    if world.rank() == 0:
        say(step, build(project, params, step, key, branch, force=force).said)
        return
    with building(project.artifacts / step.output, project.scratch / "tmp", swept=False) as folder:
        what = identity(project, params, step, key, branch)
        _function(step)(Job(step, restricted(params, step), project, folder, key=key, identity=what, branch=branch, force=force))


def side_by_side(project: Project, params: Params, stale: Sequence[tuple[Step, str]], processes: int) -> None:
    """Build steps that do not read each other in `processes` processes. What one of them raises stops none of the others."""
    one_each = params.model_copy(update={"machine": params.machine.model_copy(update={"dataset_processes": 1})})
    threads = max(1, (os.cpu_count() or 1) // processes)
    errors: list[AxolotlError] = []
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_share_cores, initargs=(threads,)) as pool:
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


def _share_cores(threads: int) -> None:
    os.environ["RAYON_NUM_THREADS"] = str(threads)


def _build(project: Project, params: Params, step: Step, key: str) -> str:
    return build(project, params, step, key).said


def _function(step: Step) -> Callable[[Job], Result]:
    module, _, function = step.stage.script.partition(":")
    found: Callable[[Job], Result] = getattr(importlib.import_module(module), function)
    return found


def say(step: Step, told: str) -> None:
    if world.rank() == 0:
        print(f"{step.name:<20} {told}", flush=True)


def key_of(project: Project, params: Params, step: Step, branch: Path | None = None) -> str:
    """Key of a step as params and inputs are now. Raises ArtifactError for an input that is missing."""
    return stage_key(step.stage.name, step.stage.revision, sections(params, step), inputs(project, params, step, branch))


def identity(project: Project, params: Params, step: Step, key: str, branch: Path | None) -> dict[str, Any]:
    """What the key is made of, to be told what differs."""
    return {"key": key, "params": sections(params, step), "inputs": inputs(project, params, step, branch)}


def sections(params: Params, step: Step) -> dict[str, Any]:
    """The declared sections in their identity form; an `each` stage sees its own data set only."""
    found = {name: getattr(params, name) for name in step.stage.sections}
    if step.dataset:
        found["datasets"] = params.datasets[step.dataset]
    elif "datasets" in found:
        found["datasets"] = {name: data.identity() for name, data in params.datasets.items()}
    return {name: section if isinstance(section, dict) else section.identity() for name, section in found.items()}


def inputs(project: Project, params: Params, step: Step, branch: Path | None = None) -> dict[str, str]:
    """Path → content digest of each input artifact, and of what lies outside artifacts/. branch: train's checkpoint."""
    found = {}
    for template in step.stage.inputs:
        path = step.path(template)
        for name in [f"{path}/{n}" for n in sorted(params.datasets)] if path == "tokens" else [path]:
            found[name] = _digest(project.artifacts / name)
    if step.stage.outside:
        found |= getattr(outside, step.stage.outside)(params, step.dataset, project.root, project.stats)
    if branch is not None and step.stage.name == "train":
        found |= {"branch": branch_digest(branch)}
    return found


def _digest(path: Path) -> str:
    """Of an artifact: its manifest's. Of a single file: its bytes'."""
    return digest_file(path) if path.is_file() else manifest.artifact_digest(path)


def up_to_date(project: Project, step: Step, key: str) -> bool:
    """Whether the artifact of this key is there, whole by size, with its metrics and plots."""
    try:
        record = json.loads((project.artifacts / step.key_file).read_text(encoding="utf-8"))
        facts = manifest.verify(project.artifacts / step.output, deep=False)
    except (OSError, ValueError, ArtifactError):
        return False
    also = all((project.artifacts / path).is_file() for path in step.also)
    return bool(record.get("key") == key and also and record.get("output") == manifest.digest_of(facts))


def build(project: Project, params: Params, step: Step, key: str, branch: Path | None = None, *, force: bool = False) -> Result:
    """Run the stage's function and publish what it made."""
    what = identity(project, params, step, key, branch)
    read = what["inputs"]
    for path in read:
        if (project.artifacts / path).is_dir():
            manifest.verify(project.artifacts / path)
    ancestors = lineage(project, read)
    final = project.artifacts / step.output
    with building(final, project.scratch / "tmp") as folder:
        out, beside = folder / "artifact", folder / "also"
        out.mkdir()
        beside.mkdir()
        job = Job(
            step,
            restricted(params, step),
            project,
            out,
            {path: beside / path.replace("/", "-") for path in step.also},
            key,
            what,
            branch,
            tuple(sorted(params.datasets)),
            force,
        )
        result = _function(step)(job)
        digest = manifest.seal(out, step.stage.output.partition("/")[0], result.facts)
        for path, file in job.also.items():
            replace(file, project.artifacts / path)
        replace(out, final)
    record = {
        "stage": step.name,
        "revision": step.stage.revision,
        **what,
        "output": digest,
        "versions": versions(),
        "lineage": ancestors,
        **({"work": dict(result.work)} if result.work else {}),
    }
    write_atomically(project.artifacts / step.key_file, json.dumps(record, indent=1, sort_keys=True).encode() + b"\n")
    result.afterwards()
    return result


def lineage(project: Project, read: Mapping[str, str]) -> dict[str, Any]:
    """The records of all artifacts that the inputs were made of, by name: provenance, no part of any key.

    Carried along from stage to stage, so that a machine which never saw the rows still knows them.
    Raises ArtifactError for an input without its record, which a partial `dvc pull` can leave.
    """
    found: dict[str, Any] = {}
    for path in read:
        if (project.artifacts / path / manifest.FILE).is_file():
            file = project.artifacts / "keys" / f"{path}.json"
            try:
                record = json.loads(file.read_text(encoding="utf-8"))
                record.pop("work", None)
                found |= record.pop("lineage") | {path: record}
                written = record["output"]
            except (OSError, ValueError, KeyError):
                raise ArtifactError(
                    f"{file}: missing or damaged, so the lineage would have a gap; `dvc pull {file}` or run its stage"
                ) from None
            if written != read[path]:
                raise ArtifactError(
                    f"{project.artifacts / path / manifest.FILE}: damaged artifact, it is not the manifest that its stage wrote; "
                    "run the stage again"
                )
    return found


def restricted(params: Params, step: Step) -> SimpleNamespace:
    """The declared sections by name (`dataset` for an `each` stage), and those that say how and what is shown, never what."""
    view = {name: getattr(params, name) for name in (*step.stage.sections, "machine", "tracking", "evaluation")}
    if step.dataset:
        view["dataset"] = view.pop("datasets")[step.dataset]
    return SimpleNamespace(**view)


def versions() -> dict[str, str]:
    """Installed versions of what can be seen in the bytes, read without importing anything."""
    found = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in PROVENANCE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
