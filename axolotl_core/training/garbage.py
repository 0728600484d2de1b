"""Python's garbage collection between steps: in the middle of one it would let the device, and all other processes, wait."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = 50
"""Steps."""


@contextmanager
def collected_between_steps() -> Iterator[None]:
    """In this block only `collect` collects."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def collect(step: int) -> None:
    """After a step, every so many of them: all processes at the same time."""
    if step % EVERY == 0:
        gc.collect()
