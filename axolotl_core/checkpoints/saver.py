"""Writes a run's checkpoints, on a GPU's machine in the background: a copy in pinned memory is written while training goes on.

One is written at a time; a kill in the middle leaves the one before. What lies in the machine's memory (on a CPU, or offloaded to it) is
written as it lies, while training waits: a copy would take the memory of another model.
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
from axolotl_core.distributed.optimizer_state import copied
from axolotl_core.distributed.sharded_files import Part


@dataclass
class Saver:
    """Of one run; every process has one and calls it alike. group: of all processes and of nobody else's; None for a single one.

    keep: how many checkpoints stay; device: of this process; in_background: whether training may go on while one is written.
    """

    run: Path
    keep: int
    group: ProcessGroup | None
    device: torch.device
    in_background: bool
    written: list[str] = field(default_factory=list, init=False)
    """Names since `take_written`."""
    writer: ThreadPoolExecutor = field(init=False)
    under_way: "tuple[str, Future[None]] | None" = field(default=None, init=False)
    staged: dict[str, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        on_gpu = self.device.type == "cuda"  # a thread begins with GPU 0, and the device may have no number
        self.writer = ThreadPoolExecutor(
            1, "checkpoints", torch.cuda.set_device if on_gpu else None, (torch.cuda.current_device(),) if on_gpu else ()
        )

    def save(self, name: str, saved: Snapshot, *, wait: bool) -> None:
        """Write `run/<name>`. wait: until it is in place. Raises what writing it, or the one before, raised."""
        self.wait()
        copy = self._copy(saved) if self.in_background and not wait else None
        if copy is None:
            self._write(name, saved)
            self.written.append(name)
        else:
            self.under_way = name, self.writer.submit(self._write, name, copy)

    def wait(self) -> None:
        """For what is being written. Raises what that raised."""
        if self.under_way:
            (name, under_way), self.under_way = self.under_way, None
            under_way.result()
            self.written.append(name)

    def take_written(self) -> Sequence[str]:
        """Names of what was written since the last time. Raises what writing in the background has raised."""
        if self.under_way and self.under_way[1].done():
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

    def _copy(self, saved: Snapshot) -> Snapshot | None:
        """With its tensors in memory of their own, which is used again for the next one; None where that is not to be had."""
        on_gpu = self.device.type == "cuda"
        if on_gpu and not all(part.values.is_cuda for part in saved.parts.values() if len(part.values)):
            return None
        try:
            for key, part in saved.parts.items():
                if key not in self.staged:
                    self.staged[key] = torch.empty_like(part.values, device="cpu", pin_memory=part.values.is_cuda)
                self.staged[key].copy_(part.values, non_blocking=True)
        except RuntimeError:  # no memory could be pinned
            self.staged.clear()
            self.in_background = False
            return None
        if on_gpu:
            torch.cuda.current_stream().synchronize()
        return replace(
            saved,
            parts={key: Part(self.staged[key], part.start, part.total) for key, part in saved.parts.items()},
            states={name: copied(state) for name, state in saved.states.items()},
            log=[dict(row) for row in saved.log],
        )
