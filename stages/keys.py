"""What a step is a function of: its key, and what the key is made of."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from axolotl_core.artifacts import manifest
from axolotl_core.artifacts.key import stage_key
from axolotl_core.checkpoints.format import branch_digest
from axolotl_core.params.params import SECTIONS, Params
from axolotl_core.params.section import Section
from axolotl_core.sources import outside
from axolotl_core.stages.graph import Step, expanded
from axolotl_core.stages.job import Project


def identity(project: Project, params: Params, step: Step, branch: Path | None = None) -> dict[str, Any]:
    """The key of a step as params and inputs are now, and what it is made of. Raises ArtifactError for an input that is missing."""
    given, read = options(params, step), inputs(project, params, step, branch)
    return {"key": key_of(step, given, read), "params": given, "inputs": read}


def key_of(step: Step, given: Mapping[str, Any], read: Mapping[str, str]) -> str:
    """given: `options`; read: digests of `inputs`."""
    return stage_key(step.stage.name, step.stage.revision, given, read)


def visible_params(params: Params, step: Step) -> dict[str, Any]:
    """The sections that a step reads, with the options that it reads; `datasets` is its own dataset's for an `each` stage."""
    return _by_section(step, _sections(params, step), lambda section, _, read: section if read is None else section.only(read))


def options(params: Params, step: Step) -> dict[str, Any]:
    """What of params.yaml enters a step's key: the options that it reads, those that differ from their defaults."""
    return _by_section(step, _sections(params, step), lambda section, _, read: _of(section.identity(), read))


def recorded_options(recorded: Mapping[str, Any], step: Step) -> dict[str, Any]:
    """What of a record's params enters the step's key now: an earlier version may have put more options into it."""

    def now(values: Mapping[str, Any], kind: type[Section], read: Read) -> dict[str, Any]:
        without_effect = kind.model_construct(**values).without_effect()
        return {option: value for option, value in _of(values, read).items() if option not in without_effect}

    return _by_section(step, {name: recorded.get(name, {}) for name in step.stage.sections}, now)


Read = frozenset[str] | None
"""Options of a section that a stage reads; None: all."""


def _sections(params: Params, step: Step) -> dict[str, Any]:
    found = {name: getattr(params, name) for name in step.stage.sections}
    return found | ({"datasets": params.datasets[step.dataset]} if step.dataset else {})


def _by_section(step: Step, sections: Mapping[str, Any], make: Callable[[Any, type[Section], Read], Any]) -> dict[str, Any]:
    """`make` of each section that a step reads; of each dataset where it reads them all."""
    found: dict[str, Any] = {}
    for name, read in step.stage.sections.items():
        kind, section = SECTIONS[name], sections[name]
        if name == "datasets" and not step.dataset:
            found[name] = {dataset: make(data, kind, read) for dataset, data in section.items()}
        else:
            found[name] = make(section, kind, read)
    return found


def _of(values: Mapping[str, Any], read: Read) -> dict[str, Any]:
    return {option: value for option, value in values.items() if read is None or option in read}


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
    return expanded(map(step.path, step.stage.inputs), sorted(params.datasets))


def read_outside(project: Project, params: Params, step: Step) -> outside.Outside:
    """What a step reads from outside artifacts/."""
    kind = step.stage.outside
    return outside.FUNCTIONS[kind](params, step.dataset, project.root) if kind else {}


def digest_of(project: Project, path: str) -> str:
    """Of an artifact: its manifest's. Of a single file: its bytes'."""
    found = project.artifacts / path
    return project.stats.digest(found) if found.is_file() else manifest.artifact_digest(found)
