"""The processes that run together, as torchrun describes them to each. Nothing heavy is imported to ask."""

import multiprocessing
import multiprocessing.connection
import os
import threading


def size() -> int:
    """How many there are; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process; 0 is the one that writes and speaks."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Number of this process on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def end_with_parent() -> None:
    """In a worker of a process pool: end when its parent is killed, for nobody would give it work any more."""

    def watch(sentinel: int) -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    if parent := multiprocessing.parent_process():
        threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()


def launched() -> bool:
    """Whether torchrun, or what is built on it, has started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ
