"""The processes that run together, as torchrun describes them to each. Nothing heavy is imported to ask."""

import multiprocessing
import multiprocessing.connection
import os
import threading


def rank() -> int:
    """Number of this process; 0 is the one that writes and speaks."""
    return _number("RANK", 0) if launched() else 0


def local_rank() -> int:
    """Number of this process on its machine, which is that of its GPU."""
    return _number("LOCAL_RANK", 0) if launched() else 0


def local_size() -> int:
    """How many processes of the group are on this machine."""
    return _number("LOCAL_WORLD_SIZE", _number("WORLD_SIZE", 1)) if launched() else 1


def launched() -> bool:
    """Whether torchrun, or what is built on it, has started this process as one of a group.

    A scheduler (Kubeflow, SageMaker) describes a single process as RANK=0 WORLD_SIZE=1 too; a group of one is torchrun's alone.
    """
    return "RANK" in os.environ and (_number("WORLD_SIZE", 1) > 1 or "TORCHELASTIC_RUN_ID" in os.environ)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else default


def end_with_parent() -> None:
    """In a worker of a process pool: end when its parent is killed, for nobody would give it work any more."""

    def watch(sentinel: int) -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    if parent := multiprocessing.parent_process():
        threading.Thread(target=watch, args=(parent.sentinel,), daemon=True).start()
