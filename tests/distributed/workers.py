"""Processes that live for many tests and form a group anew for each: what takes time is not to train but to import torch."""

import gc
import multiprocessing
import os
import socket
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

DIED = "it ended without an answer"
PRELOADED = ["tests.distributed.jobs"]
"""What the process imports, once, that all workers are forked from."""
LAST_WORDS_S = 10.0
"""What the other processes have to end by themselves once one has failed."""


class Workers:
    """So many processes; `run` calls a function of a test module in all of them at once."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        os.environ["MALLOC_MMAP_THRESHOLD_"] = str(2**20)  # what is freed goes back to the system, so that memory can be measured
        self.pipes: list[Connection] = []
        self.processes: list[BaseProcess] = []
        for rank in range(self.count):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, rank, self.count), daemon=True)
            process.start()
            self.pipes.append(here)
            self.processes.append(process)
        del os.environ["MALLOC_MMAP_THRESHOLD_"]

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What it returns in each process, by rank. A failure in one of them is raised here, with its traceback; those that would wait
        for it are ended."""
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        for pipe in self.pipes:
            pipe.send((function, arguments, port))
        found: dict[int, Any] = {}
        while len(found) < len(self.pipes):
            waiting = [pipe for rank, pipe in enumerate(self.pipes) if rank not in found]
            ready = wait(waiting, LAST_WORDS_S if any(text for text, _ in found.values()) else None)
            found |= {self.pipes.index(pipe): _received(pipe) for pipe in ready if isinstance(pipe, Connection)}
            if not ready:
                break  # they wait for the one that failed
        told = [f"rank {rank}: {text}" for rank, (text, _) in sorted(found.items()) if text]
        if len(found) < len(self.pipes) or any(text == DIED for text, _ in found.values()):
            for process in self.processes:
                process.kill()
            self._start()
        assert not told, "\n".join(told)
        return [found[rank][1] for rank in range(len(self.pipes))]

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)


def _received(pipe: Connection) -> tuple[str | None, Any]:
    """What is raised, what is returned."""
    try:
        text, value = pipe.recv()
        return text, value
    except (EOFError, ConnectionError):
        return DIED, None


def _serve(pipe: Connection, rank: int, count: int) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    while job := pipe.recv():
        function, arguments, port = job
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
        try:
            pipe.send((None, function(*arguments)))
        except BaseException:
            pipe.send((traceback.format_exc(), None))
        if not gc.get_freeze_count():
            gc.freeze()  # what the first job has imported
        if "deepspeed" in sys.modules:  # which remembers its group of processes
            from deepspeed.comm import comm
            from deepspeed.utils import groups

            comm.cdb, groups._WORLD_GROUP = None, None
