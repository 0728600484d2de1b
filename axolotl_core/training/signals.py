"""Signals that end a run: SIGINT and SIGTERM, after the step under way."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SAME_PRESS_S = 1.0
"""A launcher passes on what the terminal has sent to its processes too: signals so close together are one."""


class Signals:
    """`caught`: the signal that asked the run to end, or None. The first is answered at once, a second SIGINT ends the run there.

    doing: what the run does now, "step (3 of 20)".
    """

    caught: int | None = None
    doing = "step"

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet, self.first = quiet, 0.0

    def __call__(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self.caught is None:
            self.caught, self.first = number, now
            again = ", press again to stop now" if number == signal.SIGINT else ""
            if not self.quiet:  # straight to the file: whatever is interrupted may be writing itself
                os.write(2, f"\nstopping after this {self.doing}{again}\n".encode())
        elif number == signal.SIGINT and now - self.first > SAME_PRESS_S:
            raise KeyboardInterrupt

    @contextmanager
    def listening(self) -> Iterator["Signals"]:
        """SIGINT and SIGTERM are caught in this block, and handled as before after it."""
        before = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
