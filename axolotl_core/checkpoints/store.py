"""Checkpoints of one run: `.axolotl/runs/<train key>/step-<N>/`.

    weights.safetensors   what is trained
    optimizer.pt          the optimizer's state by the parameter's name, and the loss scaler's
    merged.safetensors    ReLoRA only: the base as merged so far, in full precision
    state.json            step, rows of the log, and what the run is of: train key, options, inputs
    COMPLETE              digest of each file, written last: a folder without it is no checkpoint

`best-<N>/` beside them has the weights of the best evaluation so far; an older one stays as long as a checkpoint may resume from
it. A run that is over keeps its last checkpoint, and FINISHED says so.

No random state: what is drawn in a step is a function of the seed and the step. No number of processes: see distributed/strategy.py.
A damaged one is skipped for the one before. The run's folder is locked while a process trains in it: a killed
`dvc repro` can leave its trainer alive.
"""

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from axolotl_core.artifacts import lock
from axolotl_core.artifacts.key import digest_file
from axolotl_core.artifacts.link import link
from axolotl_core.artifacts.scratch import building, replace, write_atomically
from axolotl_core.checkpoints.format import COMPLETE, FINISHED, damaged, files_of
from axolotl_core.errors import TrainError

BEST, STATE = "best", "state.json"


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
class Checkpoint:
    """What a run resumes from. identity: what the run is of, as plain JSON: {"key": …, "params": …, "inputs": …}."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    log: list[dict[str, Any]]
    identity: dict[str, Any]
    merged: Path | None = None
    scaler: dict[str, Any] = field(default_factory=dict)


def save(run: Path, name: str, saved: Checkpoint) -> None:
    """Write `run/<name>` whole."""
    with building(run / name) as folder:
        new = folder / "checkpoint"
        new.mkdir()
        save_file({key: value.contiguous() for key, value in saved.weights.items()}, new / "weights.safetensors")
        torch.save({"optimizer": saved.optimizer, "scaler": saved.scaler}, new / "optimizer.pt")
        if saved.merged:
            link(saved.merged, new / "merged.safetensors")
        state = {"step": saved.step, "log": saved.log, "identity": saved.identity}
        (new / STATE).write_text(json.dumps(state), encoding="utf-8")
        digests = {file.name: digest_file(file) for file in sorted(new.iterdir())}
        write_atomically(new / COMPLETE, json.dumps(digests).encode())
        replace(new, run / name)


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
    stored = torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu")
    has_merged = "merged.safetensors" in files_of(folder)
    return Checkpoint(
        state["step"],
        load_file(folder / "weights.safetensors"),
        stored["optimizer"],
        state["log"],
        state["identity"],
        folder / "merged.safetensors" if has_merged else None,
        stored["scaler"],
    )


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
