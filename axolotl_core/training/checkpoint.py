"""Checkpoints of one run: `.axolotl/runs/<train key>/step-<N>/`.

    weights.safetensors   what is trained
    optimizer.pt          the optimizer's state
    state.json            step, rows of the log, state of the random generators
    COMPLETE              digest of each file, written last: a folder without it is no checkpoint

A damaged one is passed over for the one before. The run's folder is locked while a process trains in it: a killed
`dvc repro` can leave its trainer alive.
"""

import fcntl
import json
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from axolotl_core.artifacts.key import digest_file
from axolotl_core.artifacts.scratch import building, replace, write_atomically
from axolotl_core.errors import TrainError

COMPLETE = "COMPLETE"


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold the run's folder. Raises TrainError when another process does."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise TrainError(
                f"{run}: process {file.read().strip() or '?'} is training this very run; wait for it, or end it and start again"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def save(run: Path, step: int, model: Any, optimizer: torch.optim.Optimizer, log: list[dict], keep: int) -> None:
    """Write the checkpoint of `step` and remove the oldest beyond `keep`."""
    final = run / f"step-{step}"
    with building(final, run / "tmp") as folder:
        new = folder / "checkpoint"
        new.mkdir()
        save_file(trained(model), new / "weights.safetensors")
        torch.save({"optimizer": optimizer.state_dict(), "random": _random_state()}, new / "optimizer.pt")
        (new / "state.json").write_text(json.dumps({"step": step, "log": log}), encoding="utf-8")
        digests = {file.name: digest_file(file) for file in sorted(new.iterdir())}
        write_atomically(new / COMPLETE, json.dumps(digests).encode())
        replace(new, final)
    for old in steps(run)[:-keep]:
        shutil.rmtree(run / f"step-{old}")


def restore(run: Path, model: Any, optimizer: torch.optim.Optimizer) -> tuple[int, list[dict], list[str]]:
    """Load the newest whole checkpoint; (its step or 0, its log, sentences about those that were passed over)."""
    told: list[str] = []
    for step in reversed(steps(run)):
        folder = run / f"step-{step}"
        bad = damaged(folder)
        if bad is None:
            weights = load_file(folder / "weights.safetensors")
            for name, tensor in trained(model).items():
                tensor.copy_(weights[name])
            state = torch.load(folder / "optimizer.pt", weights_only=True, map_location="cpu")
            optimizer.load_state_dict(state["optimizer"])
            _set_random_state(state["random"])
            record = json.loads((folder / "state.json").read_text(encoding="utf-8"))
            forget(run, after=step)
            return step, record["log"], told
        told.append(f"checkpoint {folder} is damaged ({bad}); the one before is used")
    forget(run, after=0)
    return 0, [], told


def forget(run: Path, after: int) -> None:
    """Remove the checkpoints of later steps: damaged ones, or those of a run that is not gone on with."""
    for step in steps(run):
        if step > after:
            shutil.rmtree(run / f"step-{step}")


def damaged(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        digests = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "COMPLETE is missing or unreadable"
    for name, digest in digests.items():
        if not (folder / name).is_file() or digest_file(folder / name) != digest:
            return f"{name} is not as it was written"
    return None


def steps(run: Path) -> list[int]:
    """Steps of the checkpoints there are, ascending, whole or not."""
    return sorted(int(path.name[5:]) for path in run.glob("step-*") if path.name[5:].isdigit())


def trained(model: Any) -> dict[str, torch.Tensor]:
    """The parameters that require a gradient, by name; tied ones once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def _random_state() -> dict[str, Any]:
    kind, words, *rest = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [kind, torch.from_numpy(words.astype(np.int64)), *rest],
        "python": [version, list(internal), gauss],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, words, *rest = state["numpy"]
    np.random.set_state((kind, words.numpy().astype(np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
