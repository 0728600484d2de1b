"""Which checkpoint a run resumes from.

By itself: the newest complete one of the same train key. On request: `resume_from_checkpoint`, a step of this run. A
checkpoint of another key is refused with what differs, in two columns; `--branch-from` takes it on purpose, and then its
digest is part of the new run's key.
"""

import json
from pathlib import Path
from typing import Any

from axolotl_core.artifacts.difference import differences
from axolotl_core.checkpoints import store
from axolotl_core.checkpoints.best import best_step, keeps_best, missing_best
from axolotl_core.checkpoints.format import complete, damaged
from axolotl_core.checkpoints.store import Checkpoint
from axolotl_core.errors import TrainError
from axolotl_core.params.paths import path_in
from axolotl_core.params.tracking import Tracking
from axolotl_core.params.training import Training

WIDTH = 40


def choose(run: Path, tracking: Tracking, training: Training, root: Path, branch: Path | None) -> tuple[Path | None, list[str]]:
    """The folder of the checkpoint or None, and sentences for the user. Raises TrainError for a damaged one that was asked for."""
    since = branched_at(branch)

    def unusable(folder: Path) -> str | None:
        if bad := damaged(folder):
            return bad
        state = store.state_of(folder)
        best = best_step(state["log"], training, since) if keeps_best(training) else None
        return missing_best(run, best) if best not in (None, state["step"]) else None

    if tracking.resume_from_checkpoint is not None:
        folder = path_in(root, tracking.resume_from_checkpoint)
        if bad := unusable(folder):
            raise TrainError(f"tracking.resume_from_checkpoint: {folder} cannot be resumed from: {bad}")
        return folder, []
    found, notes = store.newest(run, unusable) if tracking.auto_resume_from_checkpoints else (None, [])
    return (found if found or branch is None else complete(branch, "--branch-from")), notes


def branched_at(branch: Path | None) -> int:
    """The step of the checkpoint that a run branches from; 0 for a run that does not. Raises TrainError for a damaged one."""
    return 0 if branch is None else int(store.state_of(complete(branch, "--branch-from"))["step"])


def read(folder: Path, identity: dict[str, Any], branch: Path | None) -> tuple[Checkpoint, str]:
    """The checkpoint, and a sentence about it. Raises TrainError for one of another run, unless it is the branch."""
    saved = store.read(folder)
    if folder == branch:
        return saved, f"branched from {branch}, step {saved.step} of the run {saved.identity['key'][:12]}"
    if saved.identity["key"] != identity["key"]:
        raise TrainError(
            f"{folder}: is a checkpoint of another run\n{table(saved.identity, identity)}\n"
            f"`axolotl stage train --branch-from {folder}` resumes from it all the same, as a run of its own"
        )
    return saved, f"resumed from the checkpoint of step {saved.step}"


def table(old: dict[str, Any], new: dict[str, Any]) -> str:
    """What differs, a line each: option or input, the checkpoint's, this run's."""
    lines = [f"  {'':<{WIDTH}} {'checkpoint':<24} now"]
    for found in (*differences(old["params"], new["params"]), *differences(old["inputs"], new["inputs"])):
        lines.append(f"  {found.name:<{WIDTH}} {_cell(found.old):<24} {_cell(found.new)}")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "default"
    return str(value)[:12] if isinstance(value, str) and len(value) == 32 else json.dumps(value, ensure_ascii=False)
