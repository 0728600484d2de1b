"""Checkpoints of one run: `.axolotl/runs/<train key>/step-<N>/`.

    shard-….safetensors   what is trained and the optimizer's state, of each process what it has (distributed/sharded_files.py)
    optimizer.pt          the rest of the optimizer's state by the parameter's name, and the loss scaler's
    merged.safetensors    ReLoRA only: the base as merged so far, in full precision
    state.json            step, rows of the log, and what the run is of: train key, options, inputs
    COMPLETE              digest of each file, written last: a folder without it is no checkpoint

`best-<N>/` beside them has the weights of the best evaluation so far; an older one stays as long as a checkpoint may resume from
it. A run that is over keeps its last checkpoint, and FINISHED says so.

No random state: what is drawn in a step is a function of the seed and the step. Any number of processes reads what any other wrote.
A damaged one is skipped for the one before. The run's folder is locked while a process trains in it: a killed
`dvc repro` can leave its trainer alive.
"""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.distributed import ProcessGroup

from axolotl_core.artifacts import lock
from axolotl_core.artifacts.key import digest_file
from axolotl_core.artifacts.link import link
from axolotl_core.artifacts.scratch import building, replace, write_atomically, writing
from axolotl_core.checkpoints.format import COMPLETE, FINISHED, REST, STATE, damaged, files_of
from axolotl_core.distributed.sharded_files import Part, ShardedFiles, write
from axolotl_core.errors import MachineError, TrainError

BEST, MERGED = "best", "merged.safetensors"


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run's folder. Raises TrainError when another process does."""
    run.mkdir(parents=True, exist_ok=True)
    file = run / "lock"
    handle = lock.take(file)
    if handle is None:
        raise TrainError(f"{run}: {_holder(file)} is training this very run; wait for it, or end it and start again")
    try:
        os.truncate(handle, 0)
        os.write(handle, f"{os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        lock.release(handle)


def _holder(file: Path) -> str:
    with suppress(OSError, ValueError):
        return f"process {file.read_text(encoding='utf-8')}"
    return "another process"


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint is written of. parts: of weights and optimizer state, what this process has of them; the rest is of rank 0.

    states: of the optimizer, what `parts` have not; log: rows so far; identity: what the run is of, as plain JSON: {"key": …, "params":
    …, "inputs": …}; merged: ReLoRA's file; scaler: the loss scaler's state.
    """

    step: int
    parts: Mapping[str, Part]
    states: Mapping[str, Mapping[str, Any]]
    log: Sequence[dict[str, Any]]
    identity: dict[str, Any]
    merged: Path | None = None
    scaler: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """What a run resumes from; tensors are read when they are asked for."""

    folder: Path
    step: int
    log: list[dict[str, Any]]
    identity: dict[str, Any]
    states: dict[str, dict[str, Any]]
    scaler: dict[str, Any]

    def tensors(self) -> ShardedFiles:
        """Weights and optimizer state."""
        return ShardedFiles(self.folder)

    @property
    def merged(self) -> Path | None:
        """ReLoRA's file."""
        return self.folder / MERGED if MERGED in files_of(self.folder) else None


def save(run: Path, name: str, saved: Snapshot, group: ProcessGroup | None = None) -> None:
    """Write `run/<name>` whole. Called by every process of the group; when it returns the checkpoint is in place.

    Raises MachineError where the disk is full, cannot be written, or is not the same for all processes.
    """
    main = group is None or group.rank() == 0
    with building(run / name) if main else writing(run / name) as folder:
        new = Path(_of_main(str(folder and folder / "checkpoint"), group))
        new.mkdir(parents=True, exist_ok=True)
        files = write(new, saved.parts, group)
        digests: dict[str, str] = {}
        for found in _gathered({file.name: digest_file(file) for file in files}, group):
            digests |= found
        if main:
            if gone := [file for file in digests if not (new / file).is_file()]:
                raise MachineError(
                    f"{run}: another machine wrote {gone[0]}, which is not seen here; keep the project in a folder that all machines share"
                )
            torch.save({"optimizer": saved.states, "scaler": saved.scaler}, new / REST)
            if saved.merged:
                link(saved.merged, new / MERGED)
            state = {"step": saved.step, "log": saved.log, "identity": saved.identity}
            (new / STATE).write_text(json.dumps(state), encoding="utf-8")
            digests |= {file.name: digest_file(file) for file in sorted(new.iterdir()) if file.name not in digests}
            write_atomically(new / COMPLETE, json.dumps(digests).encode())
            replace(new, run / name)
    if group:
        torch.distributed.barrier(group=group)


def _of_main(value: str, group: ProcessGroup | None) -> str:
    values = [value]
    if group:
        torch.distributed.broadcast_object_list(values, group=group)
    return values[0]


def _gathered(value: dict[str, str], group: ProcessGroup | None) -> list[dict[str, str]]:
    """Of all processes, on rank 0."""
    if group is None:
        return [value]
    values = [{} for _ in range(group.size())] if group.rank() == 0 else None
    torch.distributed.gather_object(value, values, group=group)
    return values or []


def replace_log(run: Path, name: str, log: list[dict[str, Any]]) -> None:
    """Give `run/<name>` the rows of the log that came after it; the weights stay where they lie."""
    old = run / name
    with building(old) as folder:
        new = folder / "checkpoint"
        new.mkdir()
        digests = files_of(old)
        for file in digests.keys() - {STATE}:
            link(old / file, new / file)
        (new / STATE).write_text(json.dumps(state_of(old) | {"log": log}), encoding="utf-8")
        digests[STATE] = digest_file(new / STATE)
        write_atomically(new / COMPLETE, json.dumps(digests).encode())
        replace(new, old)


def prune(run: Path, keep: int) -> None:
    """Remove the oldest checkpoints beyond `keep`, and best weights that none of the others nor the run needs."""
    for old in steps(run)[:-keep]:
        shutil.rmtree(run / f"step-{old}")
    bests = _numbers(run, BEST)
    needed = {max((best for best in bests if best <= step), default=None) for step in steps(run)} | set(bests[-1:])
    for best in set(bests) - needed:
        shutil.rmtree(run / f"{BEST}-{best}")


def read(folder: Path) -> Checkpoint:
    """A checkpoint that is not `damaged`."""
    state = state_of(folder)
    rest = torch.load(folder / REST, weights_only=True, map_location="cpu")
    return Checkpoint(folder, state["step"], state["log"], state["identity"], rest["optimizer"], rest["scaler"])


def newest(run: Path, unusable: Callable[[Path], str | None] = damaged) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that can be used, and sentences about those that were skipped. unusable: why one cannot, or None."""
    notes: list[str] = []
    for step in reversed(steps(run)):
        folder = run / f"step-{step}"
        bad = unusable(folder)
        if bad is None:
            return folder, notes
        notes.append(f"checkpoint {folder} is skipped ({bad}); the one before is used")
    return None, notes


def state_of(folder: Path) -> dict[str, Any]:
    """{"step", "log", "identity"} of a checkpoint that is not `damaged`, without its weights."""
    state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return state


def finish(run: Path) -> None:
    """The artifact is in place: keep what a branch or a lost artifact needs, the last checkpoint and the best, nothing else."""
    write_atomically(run / FINISHED, b"")
    prune(run, keep=1)
    for merged in run.glob("merged-*.safetensors"):  # the checkpoint has a link of its own
        merged.unlink()


def restart(run: Path) -> None:
    """A finished run that is to be made once more: its checkpoints go. Those of one that was interrupted stay."""
    if (run / FINISHED).exists():
        delete_after(run, 0)
    (run / FINISHED).unlink(missing_ok=True)


def delete_after(run: Path, step: int) -> None:
    """Remove the checkpoints of later steps: damaged ones, or those of a run that is not resumed."""
    for kind in ("step", BEST):
        for later in _numbers(run, kind):
            if later > step:
                shutil.rmtree(run / f"{kind}-{later}")


def steps(run: Path) -> list[int]:
    """Steps of the checkpoints there are, ascending, whole or not."""
    return _numbers(run, "step")


def _numbers(run: Path, kind: str) -> list[int]:
    names = (path.name.removeprefix(f"{kind}-") for path in run.glob(f"{kind}-*"))
    return sorted(int(name) for name in names if name.isdigit())
