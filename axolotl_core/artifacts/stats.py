"""Digests of files, remembered by what the file system says of them, so that a run with nothing to do reads no data.

size, mtime, ctime, inode, device → digest. The change time is the one that a program cannot set: a file that was put back with
its old size and mtime is seen. A file that has just been changed could change once more within one tick of the clock, so its
digest is not remembered (git's "racy" files).
"""

import json
import os
import time
from pathlib import Path
from typing import IO

from axolotl_core.artifacts.key import digest, digest_open
from axolotl_core.artifacts.scratch import write_atomically
from axolotl_core.errors import DataError, MachineError

TICK_NS = 2 * 10**9
"""The coarsest clock of a file system in use (FAT's)."""
MOST_TRIES = 5
Stamp = tuple[int, int, int, int, int]


def stamp_of(stat: os.stat_result) -> Stamp:
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev


class StatCache:
    """Kept in `.axolotl/stat.json`, which `save` writes; losing it costs time only.

    anew: believe nothing that was remembered by earlier commands.
    """

    def __init__(self, file: Path, *, anew: bool = False) -> None:
        self.file = file
        self.known: dict[str, tuple[Stamp, str]] = {} if anew else _read(file)
        self.changed = anew

    def digest(self, path: Path) -> str:
        """Digest of a file. Raises DataError for one that is being written all the time."""
        name = os.path.realpath(path)
        stat = os.stat(path)
        if (seen := self.known.get(name)) and seen[0] == stamp_of(stat):
            return seen[1]
        with path.open("rb") as file:
            return self.digest_open(file, path)

    def digest_open(self, file: IO[bytes], path: Path) -> str:
        """Digest of an open file, from its beginning; reads it where its digest is not known."""
        name = os.path.realpath(path)
        for _ in range(MOST_TRIES):
            before = stamp_of(os.fstat(file.fileno()))
            if (seen := self.known.get(name)) and seen[0] == before:
                return seen[1]
            file.seek(0)
            started, found = time.time_ns(), digest_open(file, path.name)
            if stamp_of(os.fstat(file.fileno())) == before:
                if before[2] + TICK_NS < started:
                    self.known[name], self.changed = (before, found), True
                return found
        raise DataError(f"{path}: is being written while it is read; wait until it is finished")

    def save(self) -> None:
        """Write what was learned since the last time, once a command: with many files it is a large file."""
        if self.changed:
            files: dict[str, list[int | str]] = {
                name: [*stamp, found] for name, (stamp, found) in self.known.items() if os.path.exists(name)
            }
            try:
                write_atomically(self.file, json.dumps({"digest": _digest(files), "files": files}, indent=0).encode())
            except (OSError, MachineError):
                return  # a full disk or a folder that cannot be written
            self.changed = False


def _read(file: Path) -> dict[str, tuple[Stamp, str]]:
    """What was written; nothing of a file that is damaged or of another version."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        files = found["files"]
        if found["digest"] != _digest(files):
            return {}
        return {name: ((a, b, c, d, e), known) for name, (a, b, c, d, e, known) in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _digest(files: dict[str, list[int | str]]) -> str:
    return digest(json.dumps(files, sort_keys=True).encode())  # in ASCII: a name may be no text
