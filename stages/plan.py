"""What a run would do, and why, without doing it."""

from collections.abc import Iterator
from typing import Any

from axolotl_core.artifacts import record, store
from axolotl_core.errors import ArtifactError, DataError, ModelError
from axolotl_core.params.params import Params
from axolotl_core.stages.build import up_to_date
from axolotl_core.stages.graph import Step, makers, steps
from axolotl_core.stages.job import Project
from axolotl_core.stages.keys import inputs, key_of, sections


def plan(project: Project, params: Params) -> Iterator[tuple[Step, str | None]]:
    """Every step in an order in which they can run, with the reason why it would run; None where it is up to date."""
    running: set[Step] = set()
    every = steps(params.datasets)
    for step in every:
        before = [maker.name for maker in makers(step, every) if maker in running]
        reason = _reason(project, params, step, before)
        if reason is not None:
            running.add(step)
        yield step, reason


def changed(project: Project, params: Params) -> list[str]:
    """What of params.yaml is not as it was when the adapter in artifacts/ was trained."""
    train = next(step for step in steps(params.datasets) if step.stage.name == "train")
    try:
        return _of_params(record.read(project.artifacts / train.key_file)["params"], sections(params, train))
    except ArtifactError:
        return []


def _reason(project: Project, params: Params, step: Step, before: list[str]) -> str | None:
    """before: the names of the steps that it reads and that would run."""
    if before:
        return f"{', '.join(before[:3])}{', …' if before[3:] else ''} run{'s' if len(before) == 1 else ''}"
    try:
        key = key_of(project, params, step)
        if up_to_date(project, step, key):
            return None
        if store.has(project.store, key):
            return "its result is kept in .axolotl/store and is put in place"
        if not (project.artifacts / step.key_file).is_file():
            return "it has not run yet"
        found = _differences(project, params, step, record.read(project.artifacts / step.key_file))
    except (ArtifactError, DataError, ModelError) as error:
        return str(error)
    return "; ".join(found) or "its artifact is missing or damaged"


def _differences(project: Project, params: Params, step: Step, made: dict[str, Any]) -> list[str]:
    """What is not as it was when the step ran, as sentences."""
    now, was = inputs(project, params, step), made["inputs"]
    found = [] if made["revision"] == step.stage.revision else [f"revision {made['revision']} → {step.stage.revision}"]
    found += [f"{name} changed" for name in sorted({*now, *was}) if now.get(name) != was.get(name)]
    return [*found, *_of_params(made["params"], sections(params, step))]


def _of_params(was: dict[str, Any], now: dict[str, Any]) -> list[str]:
    old, new = dict(_leaves(was)), dict(_leaves(now))
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return [f"{name} {old.get(name, 'unset')} → {new.get(name, 'unset')}" for name in names]


def _leaves(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, values
