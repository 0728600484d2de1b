"""Python's garbage collection between steps: in the middle of one it would let the device, and all other processes, wait."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = 50
"""Steps after which all processes collect at the same time."""


@contextmanager
def collected_between_steps() -> Iterator[None]:
    """In this block nothing is collected but where gc.collect is called."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
