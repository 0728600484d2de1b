"""The project as it is: what each step reads and what was recorded of it. Reads manifests, records and remembered digests.

No row, no weight and no GPU is needed: what is not here is missing in what is observed.
"""

from dataclasses import dataclass
from pathlib import Path

from axolotl_core.artifacts import manifest, record, store
from axolotl_core.artifacts.key import digest_file
from axolotl_core.errors import ArtifactError, AxolotlError, DataError
from axolotl_core.params.params import Params
from axolotl_core.stages import keys
from axolotl_core.stages.graph import Step, steps
from axolotl_core.stages.job import Project
from axolotl_core.stages.plan import Made, Observed, Planned, plan


@dataclass(frozen=True)
class Survey:
    """One look at a project. branch: the checkpoint that train goes on from."""

    project: Project
    params: Params
    branch: Path | None = None

    def observe(self, step: Step) -> Observed:
        """A step as it is now."""
        made = made_by(self.project, step)
        error: AxolotlError | None = None
        try:
            outside = keys.outside_inputs(self.project, self.params, step, self.branch)
        except AxolotlError as raised:
            outside, error = {}, raised
        return Observed(
            keys.options(self.params, step),
            {path: self._digest(path) for path in keys.artifacts_read(self.params, step)},
            outside,
            error,
            made,
            damage(self.project, step, made) if made else self._without_record(step),
        )

    def kept(self, key: str) -> Made | None:
        """The finished result of a key in .axolotl/store, whole or not: it is held against its digests when it is put in place."""
        file = self.project.store / key / store.RECORD
        try:
            return Made(record.read(file), digest_file(file))
        except (ArtifactError, OSError):
            return None

    def plan(self) -> list[Planned]:
        """What a run would do with every step, in an order in which they can run."""
        return list(plan(steps(self.params.datasets), self.observe, self.kept))

    def _without_record(self, step: Step) -> dict[str, str]:
        """What is wrong with an artifact that is there without its record."""
        there = (self.project.artifacts / step.output / manifest.FILE).is_file()
        return {step.key_file: "the record of the artifact is missing or damaged"} if there else {}

    def _digest(self, path: str) -> str | None:
        try:
            return keys.digest_of(self.project, path)
        except (ArtifactError, DataError, OSError):
            return None


def made_by(project: Project, step: Step) -> Made | None:
    """The record of what a step made, None where there is none or it is damaged."""
    file = project.artifacts / step.key_file
    try:
        return Made(record.read(file), project.stats.digest(file))
    except (ArtifactError, DataError, OSError):
        return None


def damage(project: Project, step: Step, made: Made) -> dict[str, str]:
    """Path below artifacts/ → what is wrong with it, of what a step made."""
    try:
        right = made.record["output"] == manifest.digest_of(manifest.verify(project.artifacts / step.output, project.stats.digest))
    except (ArtifactError, DataError, OSError) as error:
        return {step.output: str(error)}
    found = {} if right else {step.output: "it is not the one that its record is of"}
    recorded = made.record["also"]
    for path in dict.fromkeys((*step.also, *recorded)):
        if path not in step.also or path not in recorded or _file_digest(project, path) != recorded[path]:
            found[path] = "it is not what its stage wrote"
    return found


def _file_digest(project: Project, path: str) -> str | None:
    try:
        return project.stats.digest(project.artifacts / path)
    except (DataError, OSError):
        return None
