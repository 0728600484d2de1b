"""What a stage's function gets and gives: the project, the job, the result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from axolotl_core.artifacts.stats import StatCache
from axolotl_core.stages.graph import ARTIFACTS, Step


@dataclass(frozen=True)
class Project:
    """A folder with artifacts/ and .axolotl/ in it. anew: no digest that an earlier command remembered is believed."""

    root: Path
    anew: bool = False

    @property
    def artifacts(self) -> Path:
        return self.root / ARTIFACTS

    @property
    def scratch(self) -> Path:
        return self.root / ".axolotl"

    @cached_property
    def stats(self) -> StatCache:
        return StatCache(self.scratch / "stat.json", anew=self.anew)

    @property
    def store(self) -> Path:
        return self.scratch / "store"


@dataclass(frozen=True)
class Job:
    """What a stage's function gets. `params` has the sections that the stage declares, and machine and tracking."""

    step: Step
    params: SimpleNamespace
    project: Project
    folder: Path
    """What is written below here is gone when the stage ends, but for `out` and `also`."""
    out: Path
    """An empty folder; what is written here becomes the artifact."""
    also: Mapping[str, Path] = field(default_factory=dict)
    """Where to write the metrics and plots that the stage declares."""
    key: str = ""
    identity: Mapping[str, Any] = field(default_factory=dict)
    """What the key is made of: {"key": …, "params": {section: …}, "inputs": {path: digest}}."""
    branch: Path | None = None
    """A checkpoint of another run that train resumes from."""
    datasets: Sequence[str] = ()
    force: bool = False
    """Whether this stage was asked for even though it is up to date."""
    check: Callable[[], None] = lambda: None
    """Raises DataError where the inputs are not what the key is made of any more."""

    @property
    def given(self) -> Path:
        """The inputs, each with the files that its manifest lists and no other."""
        return self.folder / "given"

    @property
    def own(self) -> Path:
        """Copies of the user's own files that the key is made of: formats, templates, a tokenizer, an adapter."""
        return self.folder / "own"

    def input(self, name: str) -> Path:
        """Path of a declared input; `raw` stands for this dataset's own."""
        declared = [self.step.path(template) for template in self.step.stage.inputs]
        path = f"{name}/{self.step.dataset}" if f"{name}/{self.step.dataset}" in declared else name
        if path not in declared:
            raise LookupError(f"{self.step.name} reads {path} but does not declare it; declared: {declared}")
        return self.given / path


@dataclass(frozen=True)
class Result:
    """Content facts for the manifest, a sentence for the user, and what to do once the artifact is in place."""

    facts: dict[str, Any]
    summary: str
    on_published: Callable[[], None] = lambda: None
    work: Mapping[str, int] = field(default_factory=dict)
    """What it took, which differs from run to run: kept in the key file, and no part of the lineage."""
