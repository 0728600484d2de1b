"""What a step is a function of: its key, and what the key is made of."""

from pathlib import Path
from typing import Any

from axolotl_core.artifacts import manifest
from axolotl_core.artifacts.key import stage_key
from axolotl_core.checkpoints.format import branch_digest
from axolotl_core.params.params import Params
from axolotl_core.sources import outside
from axolotl_core.stages.graph import Step
from axolotl_core.stages.job import Project


def key_of(project: Project, params: Params, step: Step, branch: Path | None = None) -> str:
    """Key of a step as params and inputs are now. Raises ArtifactError for an input that is missing."""
    return str(identity(project, params, step, branch)["key"])


def identity(project: Project, params: Params, step: Step, branch: Path | None = None) -> dict[str, Any]:
    """The key, and what it is made of, to be told what differs."""
    given, read = sections(params, step), inputs(project, params, step, branch)
    return {"key": stage_key(step.stage.name, step.stage.revision, given, read), "params": given, "inputs": read}


def sections(params: Params, step: Step) -> dict[str, Any]:
    """The declared sections in their identity form; an `each` stage sees its own dataset only."""
    found = {name: getattr(params, name) for name in step.stage.sections}
    if step.dataset:
        found["datasets"] = params.datasets[step.dataset]
    elif "datasets" in found:
        found["datasets"] = {name: data.identity() for name, data in params.datasets.items()}
    return {name: section if isinstance(section, dict) else section.identity() for name, section in found.items()}


def inputs(project: Project, params: Params, step: Step, branch: Path | None = None) -> dict[str, str]:
    """Path → content digest of each input artifact, and of what lies outside artifacts/. branch: train's checkpoint."""
    found = {name: digest_of(project, name) for name in artifacts_read(params, step)}
    found |= outside.digests(read_outside(project, params, step), project.stats)
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
    whole = project.artifacts / path
    return project.stats.digest(whole) if whole.is_file() else manifest.artifact_digest(whole)
