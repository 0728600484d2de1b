"""Which folder is a complete checkpoint, told without importing anything heavy.

COMPLETE holds the digest of each file and is written last: a folder without it is no checkpoint.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from axolotl_core.artifacts.key import digest_file
from axolotl_core.errors import ArtifactError, TrainError

COMPLETE = "COMPLETE"
REST, STATE = "optimizer.pt", "state.json"
ALWAYS = (REST, STATE)
"""Files that every checkpoint has, besides those with tensors."""
FINISHED = "FINISHED"
"""In the folder of a run that is over: its result is in place, and what is left serves a branch or a lost artifact."""


@dataclass(frozen=True)
class Run:
    """A finished run below .axolotl/runs; step: of its last checkpoint; used_s: when it ended, seconds since 1970."""

    folder: Path
    step: int
    bytes: int
    used_s: float


def finished_runs(runs: Path) -> list[Run]:
    """Those that ended last first; a run that was interrupted is none."""
    found = []
    for mark in runs.glob(f"*/{FINISHED}"):
        steps = [int(path.name[5:]) for path in mark.parent.glob("step-*") if path.name[5:].isdigit()]
        size = sum(file.stat().st_size for file in mark.parent.rglob("*") if file.is_file())
        found.append(Run(mark.parent, max(steps, default=0), size, mark.stat().st_mtime))
    return sorted(found, key=lambda run: -run.used_s)


def files_of(folder: Path) -> dict[str, str]:
    """Name → digest of the files that a checkpoint consists of. Raises ArtifactError: COMPLETE is missing, or not what was written."""
    try:
        found = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(digest, str) and Path(name).name == name for name, digest in found.items()):
        raise ArtifactError(f"{folder}: {COMPLETE} is missing or unreadable")
    return found


def damaged(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        files = files_of(folder)
    except ArtifactError:
        return f"{COMPLETE} is missing or unreadable"
    if not any(name.startswith("shard-") for name in files):
        return "it was written by an older version, in another form"
    for name in (*ALWAYS, *files):
        if name not in files or not (folder / name).is_file() or digest_file(folder / name) != files[name]:
            return f"{name} is not as it was written"
    return None


def complete(folder: Path, option: str) -> Path:
    """The folder. Raises TrainError, naming the option, when it is not a complete checkpoint."""
    bad = damaged(folder)
    if bad is not None:
        raise TrainError(f"{option}: {folder} is not a complete checkpoint: {bad}")
    return folder


def branch_digest(folder: Path) -> str:
    """What a checkpoint is, for the key of a run that branches from it. Raises TrainError when it is not complete."""
    return digest_file(complete(folder, "--branch-from") / COMPLETE)
