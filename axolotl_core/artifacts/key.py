"""Identity: xxh3-128 of canonical JSON and of files.

A stage's key is made of the *content* of its inputs, not of their keys: an edit upstream that leaves the bytes
alone stops there, and DVC, which also goes by content, agrees.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import xxhash

from axolotl_core.artifacts.scratch import write_atomically
from axolotl_core.progress import progress

CHUNK_BYTES = 1 << 22
SLOW_BYTES = 1 << 30
"""From this size on it is worth saying how far reading is."""


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, no spaces, UTF-8; the same value gives the same bytes on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: bytes) -> str:
    """xxh3-128 as 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(value)


def digest_file(path: Path) -> str:
    """xxh3-128 of a file's bytes, read in 4 MiB pieces."""
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        chunks = iter(partial(file.read, CHUNK_BYTES), b"")
        size = os.fstat(file.fileno()).st_size
        for chunk in chunks if size < SLOW_BYTES else progress(chunks, size >> 20, f"reading {path.name}", "MiB", lambda c: len(c) >> 20):
            state.update(chunk)
    return state.hexdigest()


def stage_key(stage: str, revision: int, sections: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Key of one run of a stage: its name and revision, its resolved sections, and the digest of each input."""
    identity = {"stage": stage, "revision": revision, "sections": dict(sections), "inputs": dict(inputs)}
    return digest(canonical(identity))


class StatCache:
    """Digests of files outside artifacts/, remembered by (size, mtime, inode) so that a no-op reads no data.

    Kept in `.axolotl/stat.json`, which `save` writes; losing it costs time only.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self.known: dict[str, list[Any]] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.known = {}
        self.changed = False

    def digest(self, path: Path) -> str:
        """Digest of a file, taken from the cache when its size, mtime and inode are those seen last."""
        stat = os.stat(path)
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        name = str(path.resolve())
        seen = self.known.get(name)
        if seen is None or seen[:3] != stamp:
            seen = [*stamp, digest_file(path)]
            self.known[name] = seen
            self.changed = True
        return str(seen[3])

    def save(self) -> None:
        """Write what was learned since the last time, once a command: with many files it is a large file."""
        if self.changed:
            with contextlib.suppress(OSError):  # a full disk or a folder that cannot be written
                write_atomically(self.file, json.dumps(self.known, indent=0).encode())
            self.changed = False
