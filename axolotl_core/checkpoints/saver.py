"""Writes a run's checkpoints, on a GPU's machine in the background: a copy in pinned memory is written while training goes on.

One is written at a time; a kill in the middle leaves the one before. On a CPU there is nothing to gain, and the copy would take the
memory of another model, so that what is trained is written as it lies.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
    writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "checkpoints"), init=False)
    under_way: "Future[None] | None" = field(default=None, init=False)
    staged: dict[str, Tensor] = field(default_factory=dict, init=False)

    def save(self, name: str, saved: Snapshot, *, wait: bool) -> None:
        """Write `run/<name>`. wait: until it is in place. Raises what writing it, or the one before, raised."""
        self.wait()
        if wait or not self.in_background:
            self._write(name, saved)
        else:
            self.under_way = self.writer.submit(self._write, name, self._copy(saved))

    def wait(self) -> None:
        """For what is being written. Raises what that raised."""
        if self.under_way:
            under_way, self.under_way = self.under_way, None
            under_way.result()

    def take_written(self) -> Sequence[str]:
        """Names of what was written since the last time. Raises what writing in the background has raised."""
        if self.under_way and self.under_way.done():
            self.wait()
        found, self.written = self.written, []
        return found

    def close(self) -> None:
        """Wait, whatever comes of it: the run ends with an error of its own."""
        self.writer.shutdown()

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
