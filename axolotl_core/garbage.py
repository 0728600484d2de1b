"""Python's garbage collection, off where it would cost more than it frees."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """In this block nothing is collected but where gc.collect is called."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def collected_by_hand() -> Iterator[None]:
    """In this block nothing is collected but where gc.collect is called, and that looks only at what has come since the block began:
    the half a million objects of the libraries take it 0.6 s each time."""
    with no_garbage_collection():
        before = gc.get_freeze_count()
        if not before:
            gc.collect()
            gc.freeze()
        try:
            yield
        finally:
            if not before:
                gc.unfreeze()
