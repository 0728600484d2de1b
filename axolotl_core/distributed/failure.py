"""The end of all processes when one of them fails: those that wait for it in an exchange would wait until the timeout."""

import os
import threading
from contextlib import suppress

import torch
from torch.distributed import distributed_c10d

from axolotl_core.errors import Interrupted

KEY = "axolotl/failed"
POLL_S = 1.0
LAST_WORDS_S = 5.0
"""What a process has to print an error of its own, once another one has failed."""


class FailureWatch:
    """A block whose errors end all processes of the group: a thread ends this one soon after another one has left its block so.

    A signal that ends the run (Interrupted) is no failure: all processes have agreed on it. Without a group there is nobody to watch.
    """

    def __init__(self) -> None:
        self.over = threading.Event()
        self.failed = False
        self.store: torch.distributed.Store | None = None
        if torch.distributed.is_initialized():
            self.store = distributed_c10d._get_default_store().clone()  # a connection of its own, which nobody else waits on
            threading.Thread(target=self._watch, name="failure watch", daemon=True).start()

    def __enter__(self) -> None:
        """The thread runs since the watch was made."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()
        if self.store is None or kind is None or issubclass(kind, Interrupted):
            return
        self.failed = True
        with suppress(RuntimeError):  # the others may be gone, and the store with them
            self.store.set(KEY, str(os.getpid()))

    def stop(self) -> None:
        """Watch no longer."""
        self.over.set()

    def _watch(self) -> None:
        assert self.store is not None
        while not self.over.wait(POLL_S):
            try:
                failed = self.store.check([KEY])
            except RuntimeError:  # the store is gone with the process that had it
                return
            if failed and not self.over.wait(LAST_WORDS_S):
                os._exit(1)
