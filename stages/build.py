"""How one step's artifact is made, found again, and put in place complete.

1. verify   every file of every input against its manifest
2. build    beside the artifact, by the stage's own function, which sees the inputs as they were digested and nothing else
3. keep     in .axolotl/store, by key
4. publish  metrics and plots, the artifact, the record
"""

import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from axolotl_core.artifacts import manifest, record, store
from axolotl_core.artifacts.key import digest_file
from axolotl_core.artifacts.link import link
from axolotl_core.artifacts.scratch import building, replace
from axolotl_core.errors import ArtifactError, DataError
from axolotl_core.params.params import Params
from axolotl_core.params.paths import path_in
from axolotl_core.sources import outside, steady
from axolotl_core.stages.graph import Step, makers
from axolotl_core.stages.job import Job, Project, Result
from axolotl_core.stages.keys import artifacts_read, digest_of, identity, inputs, read_outside, visible_params

PROVENANCE = ("axolotl", "torch", "transformers", "peft", "accelerate", "tokenizers", "pyarrow")


def restore(project: Project, step: Step, key: str) -> bool:
    """Put a result that was finished under this key in place once more, if it is kept."""
    found = store.find(project.store, key)
    if found is None or set(found.record["also"]) != set(step.also):
        return False
    with building(project.artifacts / step.output) as folder:
        also = {path: folder / "also" / path for path in found.also}
        try:
            for name in manifest.names(found.artifact):
                link(found.artifact / name, folder / "artifact" / name)
            for path, file in found.also.items():
                link(file, also[path])
        except (FileNotFoundError, ArtifactError):  # trimmed by another process in the meantime
            return False
        _publish(project, step, folder / "artifact", also, found.record)
    return True


def keep(project: Project, step: Step, made: Mapping[str, Any]) -> None:
    """Keep a result that is in artifacts/, complete, but was made elsewhere: DVC would remove it before it calls the stage."""
    if not store.has(project.store, made["key"]):
        store.put(project.store, made, project.artifacts / step.output, {path: project.artifacts / path for path in made["also"]})


def build(project: Project, params: Params, step: Step, branch: Path | None = None, *, force: bool = False) -> Result:
    """Run the stage's function and publish what it made, under the key of the inputs as they are now."""
    started, started_s = datetime.now(UTC), time.monotonic()
    what = identity(project, params, step, branch)
    ancestors = lineage(project, {path: what["inputs"][path] for path in artifacts_read(params, step)})
    with building(project.artifacts / step.output) as folder:
        out, beside = folder / "artifact", folder / "also"
        out.mkdir()
        beside.mkdir()
        also = {path: beside / path.replace("/", "-") for path in step.also}
        result = _function(step)(_job(project, params, step, what, folder, also, branch=branch, force=force))
        if step.stage.name != "train":  # which has opened its inputs before its first step, and looks at them then
            _unchanged(project, params, step, what, branch)
        made = {
            "stage": step.name,
            "revision": step.stage.revision,
            **what,
            "output": manifest.seal(out, step.stage.output.partition("/")[0], result.facts),
            "also": {path: digest_file(file) for path, file in also.items()},
            "versions": versions(),
            "lineage": ancestors,
            "work": {
                "at": started.isoformat(timespec="seconds"),
                "took_s": round(time.monotonic() - started_s, 2),
                **result.work,
            },
        }
        store.put(project.store, made, out, also)
        _publish(project, step, out, also, made)
    result.on_published()
    return result


def remember(project: Project, params: Params, step: Step) -> None:
    """Digest what a step reads once, for the processes that are started for it."""
    for path in artifacts_read(params, step):
        manifest.verify(project.artifacts / path, project.stats.digest)
        if path == "base":
            pin = json.loads((project.artifacts / path / "pin.json").read_text(encoding="utf-8"))
            place = path_in(project.root, pin["place"])
            for entry in pin.get("files", ()) if pin["kind"] == "folder" else ():
                with suppress(OSError):
                    project.stats.digest(place / entry["file"])
    project.stats.save()


def _unchanged(project: Project, params: Params, step: Step, what: Mapping[str, Any], branch: Path | None) -> None:
    """Raises DataError where inputs are not as the key has them: another process may have put others in their place."""
    if inputs(project, params, step, branch) != what["inputs"]:
        raise DataError(f"what {step.name} reads {steady.CHANGED}")
    for path in artifacts_read(params, step):
        if (project.artifacts / path).is_dir():
            manifest.verify(project.artifacts / path, project.stats.digest)


def take_part(project: Project, params: Params, step: Step, branch: Path | None, *, force: bool) -> None:
    """Run the stage's function in one of several processes that is not the one that writes."""
    what = identity(project, params, step, branch)
    with building(project.artifacts / step.output) as folder:
        _function(step)(_job(project, params, step, what, folder, {}, branch=branch, force=force, writes=False))


def _function(step: Step) -> Callable[[Job], Result]:
    module, _, function = step.stage.script.partition(":")
    found: Callable[[Job], Result] = getattr(importlib.import_module(module), function)
    return found


def _publish(project: Project, step: Step, artifact: Path, also: Mapping[str, Path], made: Mapping[str, Any]) -> None:
    for path, file in also.items():
        replace(file, project.artifacts / path)
    replace(artifact, project.artifacts / step.output)
    record.write(project.artifacts / step.key_file, made)


def _job(
    project: Project,
    params: Params,
    step: Step,
    what: Mapping[str, Any],
    folder: Path,
    also: Mapping[str, Path],
    *,
    branch: Path | None,
    force: bool,
    writes: bool = True,
) -> Job:
    """The job of a step, with its inputs laid out in `folder`: verified, and nothing but what they are made of.

    writes: False in a process that trains along, whose inputs another one verifies.
    """
    names = tuple(sorted(params.datasets))
    check = (lambda: _unchanged(project, params, step, what, branch)) if writes else lambda: None
    job = Job(step, _sections(params, step), project, folder, folder / "artifact", also, what["key"], what, branch, names, force, check)
    job.out.mkdir(exist_ok=True)
    digests = what["inputs"]
    for path in artifacts_read(params, step):
        if (project.artifacts / path).is_dir():
            if writes:
                manifest.verify(project.artifacts / path, project.stats.digest)
            manifest.view(project.artifacts / path, job.given / path)
        else:
            _as_made(project, params, step, path)
            steady.copy(project.artifacts / path, job.given / path, digests[path])
    if step.stage.outside in COPIED:
        found = read_outside(project, params, step)
        outside.copy_to({} if "file" in found else found, digests, project.root, job.own)
    return job


COPIED = ("format", "adapter", "tokenizer")
"""Kinds of files from outside artifacts/ that are small, and read from a copy; a tokenizer in one large `file` is not."""


def _as_made(project: Project, params: Params, step: Step, path: str) -> None:
    """Raises ArtifactError for a metrics file that is not the one its stage wrote."""
    for maker in makers(step, params.datasets):
        if path in maker.also and record.read(project.artifacts / maker.key_file)["also"].get(path) != digest_of(project, path):
            raise ArtifactError(f"{project.artifacts / path}: damaged, it is not what {maker.name} wrote; run {maker.name} again")


def lineage(project: Project, read: Mapping[str, str]) -> dict[str, Any]:
    """The records of all artifacts that the inputs were made of, by name: provenance, no part of any key.

    Carried along from stage to stage, so that a machine which never saw the rows still knows them.
    Raises ArtifactError for an input without its record, which a partial `dvc pull` can leave.
    """
    found: dict[str, Any] = {}
    for path in read:
        if (project.artifacts / path / manifest.FILE).is_file():
            made = record.read(project.artifacts / "keys" / f"{path}.json")
            found |= record.lineage(path, made)
            if made["output"] != read[path]:
                raise ArtifactError(
                    f"{project.artifacts / path / manifest.FILE}: damaged artifact, it is not the manifest that its stage wrote; "
                    "run the stage again"
                )
    return found


def _sections(params: Params, step: Step) -> SimpleNamespace:
    """The declared sections by name (`dataset` for an `each` stage), and those that say how and what is shown, never what."""
    view = {name: getattr(params, name) for name in ("machine", "tracking", "evaluation")} | visible_params(params, step)
    if step.dataset:
        view["dataset"] = view.pop("datasets")
    return SimpleNamespace(**view)


@cache
def versions() -> dict[str, str]:
    """Installed versions of what can be seen in the bytes, read without importing anything."""
    found = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in PROVENANCE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
