"""Which checkpoint a run goes on from.

By itself: the newest whole one of the same train key. On request: `resume_from_checkpoint`, a step of this run. A
checkpoint of another key is refused with what differs, in two columns; `--branch-from` takes it on purpose, and then its
digest is part of the new run's key.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from axolotl_core.artifacts.checkpoints import damaged, whole
from axolotl_core.errors import TrainError
from axolotl_core.params.paths import path_in
from axolotl_core.params.tracking import Tracking
from axolotl_core.params.training import Training
from axolotl_core.training import checkpoint
from axolotl_core.training.checkpoint import Checkpoint
from axolotl_core.training.stop import best_step, keeps_best

WIDTH = 40


def choose(run: Path, tracking: Tracking, training: Training, root: Path, branch: Path | None) -> tuple[Path | None, list[str]]:
    """The folder of the checkpoint or None, and sentences for the user. Raises TrainError for a damaged one that was asked for."""
    since = branched_at(branch)

    def unusable(folder: Path) -> str | None:
        if bad := damaged(folder):
            return bad
        state = checkpoint.state_of(folder)
        best = best_step(state["log"], training, since) if keeps_best(training) else None
        return checkpoint.without_best(run, best) if best not in (None, state["step"]) else None

    if tracking.resume_from_checkpoint is not None:
        folder = path_in(root, tracking.resume_from_checkpoint)
        if bad := unusable(folder):
            raise TrainError(f"tracking.resume_from_checkpoint: {folder} cannot be gone on from: {bad}")
        return folder, []
    found, told = checkpoint.newest(run, unusable) if tracking.auto_resume_from_checkpoints else (None, [])
    return (found if found or branch is None else whole(branch, "--branch-from")), told


def branched_at(branch: Path | None) -> int:
    """The step of the checkpoint that a run branches from; 0 for a run that does not. Raises TrainError for a damaged one."""
    return 0 if branch is None else int(checkpoint.state_of(whole(branch, "--branch-from"))["step"])


def read(folder: Path, identity: dict[str, Any], branch: Path | None) -> tuple[Checkpoint, str]:
    """The checkpoint, and a sentence about it. Raises TrainError for one of another run, unless it is the branch."""
    saved = checkpoint.read(folder)
    if folder == branch:
        return saved, f"branched from {branch}, step {saved.step} of the run {saved.identity['key'][:12]}"
    if saved.identity["key"] != identity["key"]:
        raise TrainError(
            f"{folder}: is a checkpoint of another run\n{table(saved.identity, identity)}\n"
            f"`axolotl stage train --branch-from {folder}` goes on from it all the same, as a run of its own"
        )
    return saved, f"resumed from the checkpoint of step {saved.step}"


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
