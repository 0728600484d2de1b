"""Writes a run's checkpoints, on a GPU's machine in the background: a copy in pinned memory is written while training goes on.

One is written at a time; a kill in the middle leaves the one before. On a CPU there is nothing to gain, and the copy would take the
memory of another model, so that what is trained is written as it lies.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from axolotl_core.checkpoints import store
from axolotl_core.checkpoints.store import Snapshot
from axolotl_core.distributed.sharded_files import Part


@dataclass
class Saver:
    """Of one run; every process has one and calls it alike. group: of all processes and of nobody else's; None for a single one.

    keep: how many checkpoints stay.
    """

    run: Path
    keep: int
    group: ProcessGroup | None
    in_background: bool
    written: list[str] = field(default_factory=list, init=False)
    """Names since `take_written`."""
    thread: threading.Thread | None = field(default=None, init=False)
    error: BaseException | None = field(default=None, init=False)
    staged: dict[str, Tensor] = field(default_factory=dict, init=False)

    def save(self, name: str, saved: Snapshot, *, wait: bool) -> None:
        """Write `run/<name>`. wait: until it is in place. Raises what writing it, or the one before, raised."""
        self.wait()
        if wait or not self.in_background:
            self._write(name, saved)
            return
        self.thread = threading.Thread(target=self._try, args=(name, self._copy(saved)), name=f"write {name}")
        self.thread.start()

    def wait(self) -> None:
        """For what is being written. Raises what that raised."""
        if self.thread:
            self.thread.join()
            self.thread = None
        if self.error:
            error, self.error = self.error, None
            raise error

    def take_written(self) -> Sequence[str]:
        """Names of what was written since the last time. Raises what writing in the background has raised."""
        if self.thread and not self.thread.is_alive():
            self.wait()
        found, self.written = self.written, []
        return found

    def close(self) -> None:
        """Wait, whatever comes of it: the run ends with an error of its own."""
        if self.thread:
            self.thread.join()

    def _try(self, name: str, saved: Snapshot) -> None:
        try:
            self._write(name, saved)
        except BaseException as error:
            self.error = error

    def _write(self, name: str, saved: Snapshot) -> None:
        store.save(self.run, name, saved, self.group)
        if self.group is None or self.group.rank() == 0:
            store.prune(self.run, self.keep)
        self.written.append(name)

    def _copy(self, saved: Snapshot) -> Snapshot:
        """With its tensors in memory of their own, which is used again for the next one."""
        for key, part in saved.parts.items():
            if key not in self.staged:
                self.staged[key] = torch.empty_like(part.values, device="cpu", pin_memory=part.values.is_cuda)
            self.staged[key].copy_(part.values, non_blocking=True)
        if any(part.values.is_cuda for part in saved.parts.values()):
            torch.cuda.current_stream().synchronize()
        parts = {key: Part(self.staged[key], part.start, part.total) for key, part in saved.parts.items()}
        return replace(saved, parts=parts, log=[dict(row) for row in saved.log])
