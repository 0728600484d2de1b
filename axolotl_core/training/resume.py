"""Which checkpoint a run goes on from.

By itself: the newest whole one of the same train key. On request: `resume_from_checkpoint`, a step of this run. A
checkpoint of another key is refused with what differs, in two columns; `--branch-from` takes it on purpose, and then its
digest is part of the new run's key.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from axolotl_core.artifacts.checkpoints import whole
from axolotl_core.errors import TrainError
from axolotl_core.params.tracking import Tracking
from axolotl_core.training import checkpoint
from axolotl_core.training.checkpoint import Checkpoint

WIDTH = 40


def pick(run: Path, tracking: Tracking, identity: dict[str, Any], root: Path, branch: Path | None) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint or None, and sentences for the user. Raises TrainError for one that is damaged or of another run."""
    folder: Path | None = None
    told: list[str] = []
    if tracking.resume_from_checkpoint is not None:
        folder = whole(root / tracking.resume_from_checkpoint, "tracking.resume_from_checkpoint")
    elif tracking.auto_resume_from_checkpoints:
        folder, told = checkpoint.newest(run)
    if folder is None:
        return (None, told) if branch is None else _branched(branch, told)
    saved = checkpoint.read(folder)
    if saved.identity["key"] != identity["key"]:
        raise TrainError(
            f"{folder}: is a checkpoint of another run\n{table(saved.identity, identity)}\n"
            f"`axolotl stage train --branch-from {folder}` goes on from it all the same, as a run of its own"
        )
    return saved, [*told, f"resumed from the checkpoint of step {saved.step}"]


def _branched(branch: Path, told: list[str]) -> tuple[Checkpoint, list[str]]:
    saved = checkpoint.read(whole(branch, "--branch-from"))
    return saved, [*told, f"branched from {branch}, step {saved.step} of the run {saved.identity['key'][:12]}"]


def table(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What differs, a line each: option or input, the checkpoint's, this run's."""
    was, now = dict(_flat(old)), dict(_flat(new))
    names = [name for name in sorted({*was, *now}) if was.get(name) != now.get(name) and name != "key"]
    lines = [f"  {'':<{WIDTH}} {'checkpoint':<24} now"]
    lines += [f"  {name:<{WIDTH}} {_cell(was.get(name)):<24} {_cell(now.get(name))}" for name in names]
    return "\n".join(lines)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}".removeprefix(".").removeprefix("params."))
    else:
        yield name, value


def _cell(value: Any) -> str:
    if value is None:
        return "default"
    return str(value)[:12] if isinstance(value, str) and len(value) == 32 else json.dumps(value, ensure_ascii=False)
