"""What a run would do, and why: a pure function of what steps are made of now and of what was recorded when they ran.

    its key is that of its record, its artifact is as it was made            up-to-date
    its key is another one, or its artifact is missing or damaged            run
    what it reads is not here, and no step that would run makes it           missing-input

`axolotl stage` executes this, step by step as inputs are made; `axolotl plan`, `why` and `check` print it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from axolotl_core.artifacts.difference import differences
from axolotl_core.errors import AxolotlError
from axolotl_core.stages.graph import Step
from axolotl_core.stages.keys import key_of, recorded_options

State = Literal["up-to-date", "run", "missing-input"]


@dataclass(frozen=True)
class Cause:
    """One reason why a step is not up to date. old, new: None where there is none, or where it is not known yet.

    option    of params.yaml, `training.learning_rate`; None: unset
    file      outside artifacts/, by digest
    revision  of the stage: the installed axolotl makes other bytes
    input     an artifact, by digest; new is None where a step that would run makes it
    missing   what is not there: an input, the artifact itself, or a file of it that is not as it was made; new: a sentence about it
    """

    kind: Literal["option", "file", "revision", "input", "missing"]
    name: str
    old: Any = None
    new: Any = None


@dataclass(frozen=True)
class Made:
    """A record of an artifact: how it was made, and the digest of the record's own file."""

    record: Mapping[str, Any]
    digest: str

    def outputs(self, step: Step) -> dict[str, str]:
        """Path → digest of all that the step made."""
        return {step.output: self.record["output"], **self.record["also"], step.key_file: self.digest}


@dataclass(frozen=True)
class Observed:
    """A step as the project has it now."""

    options: Mapping[str, Any]
    """What of params.yaml enters its key."""
    inputs: Mapping[str, str | None]
    """Artifact → digest, None where it is not there."""
    outside: Mapping[str, str]
    """What it reads from outside artifacts/ → digest."""
    error: AxolotlError | None = None
    """Why `outside` is not known."""
    made: Made | None = None
    damage: Mapping[str, str] = field(default_factory=dict)
    """Path → what is wrong with what the record is of."""


@dataclass(frozen=True)
class Planned:
    """What a run would do with a step. key: None where an input is not known yet.

    kept: the finished result of this key in .axolotl/store, which is put in place instead of running.
    """

    step: Step
    state: State
    because: tuple[Cause, ...] = ()
    key: str | None = None
    made: Made | None = None
    kept: Made | None = None
    error: AxolotlError | None = None


def plan(steps: Iterable[Step], observe: Callable[[Step], Observed], kept: Callable[[str], Made | None]) -> Iterator[Planned]:
    """Every step in an order in which they can run. kept: the finished result of a key, if there is one."""
    outputs: dict[str, str | None] = {}
    for step in steps:
        planned = decide(step, observe(step), kept, outputs)
        if planned.state == "run":
            made = planned.kept.outputs(step) if planned.kept else dict.fromkeys((step.output, *step.also, step.key_file))
            outputs |= made
        yield planned


def decide(step: Step, now: Observed, kept: Callable[[str], Made | None], outputs: Mapping[str, str | None] | None = None) -> Planned:
    """What to do with one step. outputs: what steps before it will make, path → digest, None where that is not known yet."""
    outputs = outputs or {}
    inputs = {path: outputs.get(path, digest) for path, digest in now.inputs.items()}
    absent = [Cause("missing", path) for path, digest in inputs.items() if digest is None and path not in outputs]
    if now.error is not None:
        absent.append(Cause("missing", str(step.stage.outside), new=str(now.error)))
    if absent:
        return Planned(step, "missing-input", tuple(absent), made=now.made, error=now.error)
    because = tuple(_causes(step, now, inputs))
    if unknown := [path for path, digest in inputs.items() if digest is None]:
        recorded = now.made.record["inputs"] if now.made else {}
        will_change = tuple(Cause("input", path, recorded.get(path)) for path in unknown)
        return Planned(step, "run", (*because, *will_change) if now.made else because, made=now.made)
    key = key_of(step, now.options, {path: str(digest) for path, digest in inputs.items()} | dict(now.outside))
    if now.made and not because:
        return Planned(step, "up-to-date", key=key, made=now.made)
    return Planned(step, "run", because, key, now.made, kept(key))


def _causes(step: Step, now: Observed, inputs: Mapping[str, str | None]) -> Iterator[Cause]:
    """How a step differs from its record, as far as it is known; that it has not run, or what is wrong with its artifact."""
    if now.made is None and not now.damage:
        yield Cause("missing", step.output)
    for path, problem in now.damage.items():
        yield Cause("missing", path, new=problem)
    if now.made is None:
        return
    was = now.made.record
    if was["revision"] != step.stage.revision:
        yield Cause("revision", step.stage.name, was["revision"], step.stage.revision)
    for name, old, new in differences(recorded_options(was["params"], step), now.options):
        section, _, rest = name.partition(".")
        named = f"datasets.{step.dataset}.{rest}" if step.dataset and section == "datasets" else name
        yield Cause("option", named, old, new)
    recorded, given = was["inputs"], {**now.outside, **inputs}
    for name in sorted({*recorded, *given}):
        will_be_made = name in inputs and inputs[name] is None
        if recorded.get(name) != given.get(name) and not will_be_made:
            yield Cause("input" if _is_artifact(step, name) else "file", name, recorded.get(name), given.get(name))


def _is_artifact(step: Step, name: str) -> bool:
    """Whether an input is an artifact of a stage, and not from outside."""
    return any(name == path or name.startswith(f"{path}/") for path in map(step.path, step.stage.inputs))
