"""Results that were finished, found by their key: nothing is computed twice on one machine, whoever asks.

    .axolotl/store/<key>/artifact/            the files of the artifact, on the disk once where it has hard links
    .axolotl/store/<key>/also/metrics/…       what belongs to it
    .axolotl/store/<key>/record.json          how it was made; says what the others must be

DVC removes the outs of a stage before it runs it, and an edit that is taken back leads to a key of before. What is found is held
against its digests; losing it costs time only.
"""

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from axolotl_core.artifacts import manifest, record
from axolotl_core.artifacts.key import digest_file
from axolotl_core.artifacts.link import link
from axolotl_core.artifacts.scratch import building, replace
from axolotl_core.errors import ArtifactError, MachineError

RECORD = "record.json"
MOST_BYTES = 10 * 10**9
"""What results may take beside what artifacts/ has too."""


@dataclass(frozen=True)
class Result:
    """A result of the store. bytes: of its files that are nowhere else; used_s: when it was made or asked for last, since 1970."""

    folder: Path
    record: Mapping[str, Any]
    bytes: int
    used_s: float

    @property
    def stage(self) -> str:
        """Which stage made it, whatever the dataset."""
        return str(self.record["stage"]).partition("@")[0]

    @property
    def artifact(self) -> Path:
        return self.folder / "artifact"

    @property
    def also(self) -> dict[str, Path]:
        """`metrics/train.json` → where it lies."""
        return {path: self.folder / "also" / path for path in self.record["also"]}


def put(store: Path, made: Mapping[str, Any], artifact: Path, also: Mapping[str, Path]) -> None:
    """Keep a result. made: its record; also: path below artifacts/ → file. Where the disk is full or closed it is not kept."""
    final = store / made["key"]
    if (there := find(store, made["key"])) and there.record["output"] == made["output"] and there.record["also"] == made["also"]:
        return
    with suppress(OSError, MachineError), building(final) as folder:
        new = folder / "result"
        kept = {new / "artifact" / name: artifact / name for name in manifest.names(artifact)}
        for target, source in (kept | {new / "also" / path: file for path, file in also.items()}).items():
            link(source, target)
        record.write(new / RECORD, made)
        replace(new, final)


def find(store: Path, key: str) -> Result | None:
    """The whole result of a key, held against its digests; a damaged one is thrown away."""
    folder = store / key
    if not folder.is_dir():
        return None
    try:
        found = _read(folder)
        right = found.record["key"] == key and found.record["output"] == manifest.digest_of(manifest.verify(found.artifact))
        right = right and all(digest_file(file) == found.record["also"][path] for path, file in found.also.items())
    except OSError:  # another process has taken it away
        return None
    except ArtifactError:
        right = False
    if not right:
        remove(folder)
        return None
    with suppress(OSError):
        os.utime(folder)
    return found


def has(store: Path, key: str) -> bool:
    """Whether there is a result of a key, whole or not."""
    return (store / key / RECORD).is_file()


def results(store: Path) -> list[Result]:
    """All of them, those used last first; damaged ones are left out."""
    return sorted(_results(store), key=lambda result: -result.used_s)


def superseded(found: Sequence[Result], most: int = MOST_BYTES) -> list[Result]:
    """Of `results`, which are too many: those used longest ago, beyond `most` bytes."""
    sizes = accumulate(result.bytes for result in found)
    return [result for result, size in zip(found, sizes, strict=True) if size > most and result.bytes]


def remove(folder: Path) -> None:
    """Take a result away at once: who looks for it finds it whole or not at all."""
    gone = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    with suppress(OSError):
        folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _results(store: Path) -> Iterator[Result]:
    for folder in store.iterdir() if store.is_dir() else ():
        if not folder.name.startswith("."):
            with suppress(OSError, ArtifactError):
                yield _read(folder)


def _read(folder: Path) -> Result:
    made = record.read(folder / RECORD)
    files = (os.stat(file) for file in folder.rglob("*") if file.is_file())
    return Result(folder, made, sum(file.st_size for file in files if file.st_nlink == 1), folder.stat().st_mtime)
