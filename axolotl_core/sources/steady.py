"""Files of the user's that must stay as they are while they are read.

A key is made of digests, and what is made under it must come of those very bytes. So a file is opened once, its digest is held
against the one in the key, it is read through the same handle, whatever its name leads to by then, and looked at once more at
the end. Small files are copied while they are digested, and read from the copy.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO

import xxhash

from axolotl_core.artifacts.key import CHUNK_BYTES
from axolotl_core.artifacts.stats import StatCache
from axolotl_core.errors import DataError

CHANGED = "changed while it was read; run again when nothing writes to it"


class Source:
    """A file that is open: every `open` reads it from its beginning, one at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("rb")

    def open(self) -> IO[bytes]:
        """The bytes from the beginning, through a handle of their own on the same file."""
        handle = os.dup(self.file.fileno())
        os.lseek(handle, 0, os.SEEK_SET)
        return os.fdopen(handle, "rb")

    def close(self) -> None:
        self.file.close()


class Steady:
    """Opens files that have the digests of a key.

    with Steady(digests, stats) as steady:
        with steady.open(path) as source: …      # raises DataError where the file is, or ends as, another one
        steady.check()                           # once more those that were not read to their end
    """

    def __init__(self, digests: Mapping[Path, str | None], stats: StatCache) -> None:
        self.digests, self.stats = digests, stats
        self.unfinished: list[Source] = []

    def __enter__(self) -> "Steady":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for source in self.unfinished:
            source.close()

    @contextmanager
    def open(self, path: Path) -> Iterator[Source]:
        source = Source(path)
        self.unfinished.append(source)
        self._check(source)
        yield source
        self._check(source)
        self.unfinished.remove(source)
        source.close()

    def check(self) -> None:
        """Raises DataError where a file that is read in part is not as it was."""
        for source in self.unfinished:
            self._check(source)

    def _check(self, source: Source) -> None:
        if self.stats.digest_open(source.file, source.path) != self.digests.get(source.path):
            raise DataError(f"{source.path}: {CHANGED}")


def copy(path: Path, target: Path, wanted: str) -> None:
    """Copy a file while it is digested. Raises DataError where it has not the digest that is wanted."""
    state = xxhash.xxh3_128()
    target.parent.mkdir(parents=True, exist_ok=True)
    with path.open("rb") as source, target.open("wb") as out:
        while piece := source.read(CHUNK_BYTES):
            state.update(piece)
            out.write(piece)
    if state.hexdigest() != wanted:
        raise DataError(f"{path}: {CHANGED}")
