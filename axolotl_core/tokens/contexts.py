"""What lies in the row cache, for people: its contexts, and which of them to throw away."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from axolotl_core.tokens.rowcache import ABOUT


@dataclass(frozen=True)
class Context:
    """One folder of the cache; used_s: when it was used last, seconds since 1970."""

    folder: Path
    dataset: str
    type: str
    rows: int
    bytes: int
    used_s: float


def contexts(rows: Path) -> list[Context]:
    """All of them, those used last first. rows: the folder .axolotl/rows."""
    found = []
    for folder in rows.iterdir() if rows.is_dir() else ():
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            about = {}
        files = [file for file in folder.glob("*.arrow") if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        count = sum(map(_rows, files))
        found.append(Context(folder, str(about.get("dataset", "?")), str(about.get("type", "?")), count, size, folder.stat().st_mtime))
    return sorted(found, key=lambda context: -context.used_s)


class Kept(Protocol):
    """A folder that costs time only to lose: a context, or a finished run."""

    @property
    def folder(self) -> Path: ...

    @property
    def bytes(self) -> int: ...

    @property
    def used_s(self) -> float: ...


def remove(found: Sequence[Kept]) -> int:
    """Throw folders away; returns the bytes. A stage that reads a context goes on: its files are mapped."""
    for context in found:
        shutil.rmtree(context.folder, ignore_errors=True)
    return sum(context.bytes for context in found)


def trim(found: Sequence[Kept], most: int) -> int:
    """Throw away those not used for longest until at most `most` bytes are left; returns the bytes."""
    left, gone = sum(context.bytes for context in found), []
    for context in sorted(found, key=lambda context: context.used_s):
        if left > most:
            gone.append(context)
            left -= context.bytes
    return remove(gone)


def _rows(file: Path) -> int:
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(file)))
        return sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
    except (pa.ArrowInvalid, OSError):
        return 0
