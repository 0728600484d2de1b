"""What a step is a function of: its key, and what the key is made of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from axolotl_core.artifacts import manifest
from axolotl_core.artifacts.key import stage_key
from axolotl_core.checkpoints.format import branch_digest
from axolotl_core.params.params import SECTIONS, Params
from axolotl_core.params.section import Section
from axolotl_core.sources import outside
from axolotl_core.stages.graph import Step
from axolotl_core.stages.job import Project


def identity(project: Project, params: Params, step: Step, branch: Path | None = None) -> dict[str, Any]:
    """The key of a step as params and inputs are now, and what it is made of. Raises ArtifactError for an input that is missing."""
    given, read = options(params, step), inputs(project, params, step, branch)
    return {"key": key_of(step, given, read), "params": given, "inputs": read}


def key_of(step: Step, given: Mapping[str, Any], read: Mapping[str, str]) -> str:
    """given: `options`; read: digests of `inputs`."""
    return stage_key(step.stage.name, step.stage.revision, given, read)


def visible_params(params: Params, step: Step) -> dict[str, Section | dict[str, Section]]:
    """The sections that a step reads, with the options that it reads; `datasets` is its own dataset's for an `each` stage."""
    found: dict[str, Any] = {}
    for name, read in step.stage.sections.items():
        section = getattr(params, name)
        if name != "datasets":
            found[name] = _only(section, read)
        elif step.dataset:
            found[name] = _only(section[step.dataset], read)
        else:
            found[name] = {dataset: _only(data, read) for dataset, data in section.items()}
    return found


def _only(section: Section, read: frozenset[str] | None) -> Section:
    return section if read is None else section.only(read)


def options(params: Params, step: Step) -> dict[str, Any]:
    """What of params.yaml enters a step's key: the options that it reads, those that differ from their defaults."""
    found: dict[str, Any] = {}
    for name, read in step.stage.sections.items():
        section = getattr(params, name)
        if name != "datasets":
            found[name] = _in_key(section, read)
        elif step.dataset:
            found[name] = _in_key(section[step.dataset], read)
        else:
            found[name] = {dataset: _in_key(data, read) for dataset, data in section.items()}
    return found


def recorded_options(recorded: Mapping[str, Any], step: Step) -> dict[str, Any]:
    """What of a record's params enters the step's key now: an earlier version may have put more options into it."""
    found: dict[str, Any] = {}
    for name, read in step.stage.sections.items():
        values, kind = recorded.get(name, {}), SECTIONS[name]
        if name == "datasets" and not step.dataset:
            found[name] = {dataset: _recorded(data, kind, read) for dataset, data in values.items()}
        else:
            found[name] = _recorded(values, kind, read)
    return found


def _recorded(values: Mapping[str, Any], kind: type[Section], read: frozenset[str] | None) -> dict[str, Any]:
    without_effect = kind.model_construct(**values).without_effect()
    return {option: value for option, value in values.items() if option not in without_effect and (read is None or option in read)}


def _in_key(section: Section, read: frozenset[str] | None) -> dict[str, Any]:
    return {option: value for option, value in section.identity().items() if read is None or option in read}


def inputs(project: Project, params: Params, step: Step, branch: Path | None = None) -> dict[str, str]:
    """Path → content digest of each input artifact, and of what lies outside artifacts/. branch: train's checkpoint."""
    found = {name: digest_of(project, name) for name in artifacts_read(params, step)}
    return found | outside_inputs(project, params, step, branch)


def outside_inputs(project: Project, params: Params, step: Step, branch: Path | None = None) -> dict[str, str]:
    """Name → digest of what a step reads from outside artifacts/."""
    found = outside.digests(read_outside(project, params, step), project.stats)
    if branch is not None and step.stage.name == "train":
        found |= {"branch": branch_digest(branch)}
    return found


def artifacts_read(params: Params, step: Step) -> list[str]:
    """Paths below artifacts/ of what a step reads there."""
    paths = map(step.path, step.stage.inputs)
    return [name for path in paths for name in ([f"{path}/{data}" for data in sorted(params.datasets)] if path == "tokens" else [path])]


def read_outside(project: Project, params: Params, step: Step) -> outside.Outside:
    """What a step reads from outside artifacts/."""
    kind = step.stage.outside
    return outside.FUNCTIONS[kind](params, step.dataset, project.root) if kind else {}


def digest_of(project: Project, path: str) -> str:
    """Of an artifact: its manifest's. Of a single file: its bytes'."""
    found = project.artifacts / path
    return project.stats.digest(found) if found.is_file() else manifest.artifact_digest(found)
