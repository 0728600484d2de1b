"""The row cache: rows that were encoded before, found by their bytes.

    .axolotl/rows/<context>/about.json           which format, which tokenizer: for people
    .axolotl/rows/<context>/<xxh3>.arrow         up to some 8 million tokens each, named by the digest of its bytes

A context is what else the ids depend on: format, options that shape text, tokenizer, revision of tokenize. The rows of a file are
sorted by the first half of their digests, so that they are found in the file as it lies on the disk: however large the cache is,
it takes no memory. A file is written beside, flushed, renamed; it is never changed. So a kill leaves a whole file or none, two
processes add files of their own, and a damaged file is seen by its name before the first of its rows is used, and thrown away.
Losing any of it costs time only.
"""

import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from axolotl_core.artifacts import lock
from axolotl_core.artifacts.key import canonical, digest, digest_file
from axolotl_core.artifacts.scratch import flush, sweep, write_atomically
from axolotl_core.errors import MachineError
from axolotl_core.labels import IGNORE_INDEX
from axolotl_core.tokens.encoded import COLUMN, STATS, Encoded, pick

SCHEMA = pa.schema(
    [
        ("head", pa.uint64()),
        ("digest", pa.binary(16)),
        ("input_ids", pa.list_(pa.int32())),
        ("trained", pa.list_(pa.bool_())),
        ("stats", pa.list_(pa.int32(), len(STATS))),
        ("split", pa.string()),
        ("reason", pa.string()),
    ]
)
FILE_TOKENS = 8_000_000
"""A file is written when so many tokens wait for it: a kill loses seconds."""
SMALL_BYTES = 2 * FILE_TOKENS
"""A full file has more than 4 bytes a token."""
MOST_FILES = 8
"""More small files of a context than this are merged."""
ABOUT = "about.json"
MISSING = -1


def context_key(identity: Mapping[str, Any]) -> str:
    """Name of a context's folder."""
    return digest(canonical(dict(identity)))


def digests_of(texts: Sequence[str]) -> np.ndarray:
    """xxh3-128 of each row's bytes, uint64 (n, 2)."""
    return np.frombuffer(b"".join(xxhash.xxh3_128_digest(text.encode()) for text in texts), "<u8").reshape(-1, 2)


class CacheFile:
    """A file of the cache, mapped. Raises OSError or pa.ArrowInvalid where it is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.schema != SCHEMA or reader.num_record_batches != 1:
            raise pa.ArrowInvalid("a file of another version")
        self.batch = reader.get_batch(0)
        self.heads = self.batch.column("head").to_numpy()
        self.digests = np.frombuffer(self.batch.column("digest").buffers()[1], "<u8").reshape(-1, 2)
        self.whole: bool | None = None

    def find(self, digests: np.ndarray) -> np.ndarray:
        """Row of each digest (n, 2), or MISSING."""
        at = np.searchsorted(self.heads, digests[:, 0])
        at[at == len(self.heads)] = 0
        same = (self.digests[at] == digests).all(axis=1) if len(self.heads) else np.zeros(len(digests), bool)
        return np.where(same, at, MISSING)

    def is_whole(self) -> bool:
        """Whether the bytes are those that its name says; read once, before the first row is used."""
        if self.whole is None:
            try:
                self.whole = digest_file(self.path) == self.path.stem
            except OSError:  # merged or trimmed by another process
                return False
        return self.whole

    def rows(self, rows: np.ndarray) -> Encoded:
        """Some of its rows, copied."""
        return from_batch(self.batch.take(pa.array(rows)))


@dataclass
class RowCache:
    """One context. `find` and `add` while a dataset is encoded, `close` at its end.

    Malformed rows are not kept: their reason may name more than the row.
    """

    folder: Path
    about: Mapping[str, Any]
    files: list[CacheFile] = field(default_factory=list)
    lost: str | None = None
    """Why rows were not kept, if the disk was full."""
    _waiting: list[pa.RecordBatch] = field(default_factory=list)
    _tokens: int = 0

    def __post_init__(self) -> None:
        sweep(self.folder)
        self.files = [file for path in sorted(self.folder.glob("*.arrow")) if (file := _opened(path))]

    def find(self, digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(file, row) of each digest (n, 2) for `rows`; file is MISSING where the row is not known."""
        files, rows = np.full(len(digests), MISSING), np.full(len(digests), MISSING)
        for i, file in enumerate(self.files):
            left = np.flatnonzero(files == MISSING)
            if not len(left):
                break
            found = file.find(digests[left])
            hits = left[found != MISSING]
            if len(hits) and file.is_whole():
                files[hits], rows[hits] = i, found[found != MISSING]
        return files, rows

    def rows(self, files: np.ndarray, rows: np.ndarray) -> tuple[list[Encoded], np.ndarray, np.ndarray]:
        """What `find` found, for `pick`: parts, and of each row the part and its number there; MISSING stays."""
        parts, part, number = [], np.full(len(files), MISSING), np.zeros(len(files), np.int64)
        for i in np.unique(files[files != MISSING]).tolist():
            mine = np.flatnonzero(files == i)
            part[mine], number[mine] = len(parts), np.arange(len(mine))
            parts.append(self.files[i].rows(rows[mine]))
        return parts, part, number

    def add(self, digests: np.ndarray, rows: Encoded) -> None:
        """Keep what was encoded; written to disk now and then, so that a kill loses little."""
        keep = np.flatnonzero(~rows.bad & _derivable(rows))
        if len(keep) < len(rows):
            digests, rows = digests[keep], pick([rows], np.zeros(len(keep), np.int64), keep)
        if len(keep) and self.lost is None:
            self._waiting.append(to_batch(digests, rows))
            self._tokens += int(rows.offsets[-1])
            if self._tokens >= FILE_TOKENS:
                self._write()

    def close(self) -> None:
        """Write what waits, note that the context was used, and merge its files when they have become many."""
        self._write()
        for file in self.files:
            if file.whole is False:  # a damaged one; its rows were encoded again
                _remove(file.path)
        with suppress(OSError):
            os.utime(self.folder)
        if len(small := _small(self.folder.glob("*.arrow"))) > MOST_FILES and self.lost is None:
            self._merge(small)

    def _write(self) -> None:
        """A full disk is not an error here: the rows are encoded again next time, and `lost` says so."""
        if not self._waiting:
            return
        batch = pa.concat_batches(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
        self._waiting, self._tokens = [], 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / ABOUT, json.dumps(dict(self.about), indent=1, sort_keys=True).encode() + b"\n")
            write_file(self.folder, batch)
        except (OSError, MachineError) as error:
            self.lost = str(error)

    def _merge(self, small: Sequence[Path]) -> None:
        """All small files of the context as few; who holds an old one open keeps it until he ends."""
        files = [file for path in small if (file := _opened(path)) and file.is_whole()]
        if not files:  # another process has merged them
            return
        whole = pa.concat_batches([file.batch for file in files])
        ends = np.cumsum(np.diff(whole.column("input_ids").offsets.to_numpy()))
        bounds = np.searchsorted(ends, np.arange(FILE_TOKENS, ends[-1] if len(ends) else 0, FILE_TOKENS))
        try:
            written = [write_file(self.folder, whole.slice(a, b - a)) for a, b in zip([0, *bounds], [*bounds, len(ends)], strict=True)]
        except OSError as error:
            self.lost = str(error)
            return
        for path in set(small) - set(written):
            _remove(path)


def write_file(folder: Path, batch: pa.RecordBatch) -> Path:
    """Sort the rows, each of them once, write them beside, flush them, and give the file the name of its digest."""
    digests = np.frombuffer(b"".join(batch.column("digest").to_pylist()), "<u8").reshape(-1, 2)
    order = np.lexsort((digests[:, 1], digests[:, 0]))
    order = order[np.append(True, (digests[order[1:]] != digests[order[:-1]]).any(axis=1))]
    new = folder / f".new.{uuid.uuid4().hex}"
    handle = lock.own(new)  # what is locked is not swept
    try:
        with os.fdopen(handle, "wb") as sink:
            with pa.ipc.new_file(sink, SCHEMA) as writer:
                writer.write_batch(batch if np.array_equal(order, np.arange(batch.num_rows)) else batch.take(pa.array(order)))
            sink.flush()
            flush(new)
            return new.rename(folder / f"{digest_file(new)}.arrow")
    finally:
        new.unlink(missing_ok=True)


def to_batch(digests: np.ndarray, rows: Encoded) -> pa.RecordBatch:
    """Rows as they lie on the disk: labels as one bit a token. digests: uint64 (n, 2)."""
    offsets = pa.array(rows.offsets.astype(np.int32))
    return pa.record_batch(
        [
            pa.array(np.ascontiguousarray(digests[:, 0])),
            pa.array([pair.tobytes() for pair in digests], pa.binary(16)),
            pa.ListArray.from_arrays(offsets, pa.array(rows.ids)),
            pa.ListArray.from_arrays(offsets, pa.array(rows.labels != IGNORE_INDEX)),
            pa.FixedSizeListArray.from_arrays(pa.array(rows.stats.reshape(-1)), len(STATS)),
            pa.array(rows.split, pa.string()),
            pa.array(rows.reasons, pa.string()),
        ],
        schema=SCHEMA,
    )


def from_batch(batch: pa.RecordBatch) -> Encoded:
    """The rows of a batch that begins at its first value."""
    lists = batch.column("input_ids")
    ids = lists.values.to_numpy()
    trained = batch.column("trained").values.to_numpy(zero_copy_only=False)
    return Encoded(
        ids,
        np.where(trained, ids, np.int32(IGNORE_INDEX)),
        lists.offsets.to_numpy().astype(np.int64),
        batch.column("stats").flatten().to_numpy().reshape(-1, len(STATS)),
        batch.column("split").to_pylist(),
        batch.column("reason").to_pylist(),
        np.zeros(batch.num_rows, bool),
    )


def _opened(path: Path) -> CacheFile | None:
    """None for one that was merged or trimmed by another process in the meantime, or is damaged."""
    try:
        return CacheFile(path)
    except OSError:
        return None
    except (pa.ArrowException, ValueError, IndexError):
        _remove(path)
        return None


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink()


def _small(files: Iterable[Path]) -> list[Path]:
    found = []
    for file in files:
        with suppress(OSError):
            found += [file] if file.stat().st_size < SMALL_BYTES else []
    return found


def _derivable(rows: Encoded) -> np.ndarray:
    """Rows whose labels are their ids where they are trained: all but odd pretokenised ones."""
    if not rows.stats[:, COLUMN["trained_text"]].any():
        return np.ones(len(rows), bool)
    odd = (rows.labels != IGNORE_INDEX) & (rows.labels != rows.ids)
    if not odd.any():
        return np.ones(len(rows), bool)
    counted = np.concatenate([[0], np.cumsum(odd)])
    return counted[rows.offsets[1:]] == counted[rows.offsets[:-1]]
