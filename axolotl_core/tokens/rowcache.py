"""The row cache: rows that were encoded before, found by their bytes.

    .axolotl/rows/<context>/about.json           which format, which tokenizer: for people
    .axolotl/rows/<context>/<xxh3>.arrow         up to some 8 million tokens each, named by the digest of its bytes

A context is what else the ids depend on: format, options that shape text, tokenizer, revision of tokenize. A file is
written beside, flushed, renamed; it is never changed. So a kill leaves a whole file or none, two processes add files
of their own, and a damaged file is seen by its name and thrown away. Losing any of it costs time only.
"""

import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from axolotl_core.artifacts.key import canonical, digest, digest_file
from axolotl_core.artifacts.scratch import flush, sweep, write_atomically
from axolotl_core.prompts.example import UNTRAINED
from axolotl_core.tokens.encoded import COLUMN, STATS, Encoded, pick

SCHEMA = pa.schema(
    [
        ("digest", pa.binary(16)),
        ("input_ids", pa.list_(pa.int32())),
        ("trained", pa.list_(pa.bool_())),
        ("stats", pa.list_(pa.int32(), len(STATS))),
        ("split", pa.string()),
        ("reason", pa.string()),
    ]
)
BATCH_TOKENS, FILE_TOKENS = 1_000_000, 8_000_000
"""A file is written batch by batch, and takes its place when it has so many tokens: a kill loses seconds."""
SMALL_BYTES = 2 * FILE_TOKENS
"""A full file has more than 4 bytes a token."""
MOST_FILES = 8
"""More small files of a context than this are merged."""
ABOUT = "about.json"


def context_key(identity: Mapping[str, Any]) -> str:
    """Name of a context's folder."""
    return digest(canonical(dict(identity)))


def digests_of(texts: Sequence[str]) -> list[bytes]:
    """xxh3-128 of each row's bytes."""
    return [xxhash.xxh3_128_digest(text.encode()) for text in texts]


@dataclass
class RowCache:
    """One context. `find` and `add` while a data set is encoded, `close` at its end.

    Malformed rows are not kept: their reason may name more than the row.
    """

    folder: Path
    about: Mapping[str, Any]
    parts: list[Encoded] = field(default_factory=list)
    index: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    files: dict[Path, range] = field(default_factory=dict)
    """Each file and the parts that come from it."""
    lost: str | None = None
    """Why rows were not kept, if the disk was full."""
    _waiting: list[pa.RecordBatch] = field(default_factory=list)
    _tokens: int = 0
    _written: set[Path] = field(default_factory=set)
    _file: "_NewFile | None" = None

    def __post_init__(self) -> None:
        sweep(self.folder)
        for file in sorted(self.folder.glob("*.arrow")):
            self._load(file)

    def find(self, digests: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
        """(part, row) of each digest for `pick(cache.parts, …)`; part is -1 where the row is not known."""
        found = [self.index.get(one, MISSING) for one in digests]
        places = np.array(found, np.int64).reshape(-1, 2)
        return places[:, 0], places[:, 1]

    def add(self, digests: list[bytes], rows: Encoded) -> None:
        """Keep what was encoded; written to disk now and then, so that a kill loses little."""
        keep = np.flatnonzero(~rows.bad & _derivable(rows))
        if len(keep) < len(rows):
            digests, rows = [digests[i] for i in keep.tolist()], pick([rows], np.zeros(len(keep), np.int64), keep)
        if len(keep) and self.lost is None:
            self._waiting.append(to_batch(digests, rows))
            self._tokens += int(rows.offsets[-1])
            if self._tokens >= BATCH_TOKENS:
                self._write()

    def close(self) -> None:
        """Write what waits, note that the context was used, and merge its files when they have become many."""
        self._write()
        self._finish()
        if self.folder.is_dir():
            os.utime(self.folder)
            if len(_small(self.folder.glob("*.arrow"))) > MOST_FILES and self.lost is None:
                self._merge()

    def _load(self, file: Path) -> None:
        try:
            if digest_file(file) != file.stem:
                file.unlink(missing_ok=True)  # a damaged file; its rows are encoded again
                return
            reader = pa.ipc.open_file(pa.memory_map(str(file)))
        except FileNotFoundError:  # merged or trimmed by another process in the meantime
            return
        first = len(self.parts)
        for i in range(reader.num_record_batches):
            digests, rows = from_batch(reader.get_batch(i))
            self.index.update((one, (len(self.parts), row)) for row, one in enumerate(digests))
            self.parts.append(rows)
        self.files[file] = range(first, len(self.parts))

    def _write(self) -> None:
        """A full disk is no error here: the rows are encoded again next time, and `lost` says so."""
        if not self._waiting:
            return
        batch = pa.concat_batches(self._waiting)
        self._waiting, self._tokens = [], 0
        try:
            if self._file is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_atomically(self.folder / ABOUT, json.dumps(dict(self.about), indent=1, sort_keys=True).encode() + b"\n")
                self._file = _NewFile(self.folder)
            self._file.write(batch)
        except OSError as error:
            self._give_up(error)
        if self._file is not None and self._file.tokens >= FILE_TOKENS:
            self._finish()

    def _finish(self) -> None:
        if self._file is not None:
            try:
                self._written.add(self._file.publish())
                self._file = None
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.lost = str(error)
        if self._file is not None:
            self._file.discard()
            self._file = None

    def _merge(self) -> None:
        """All small files of the context as one; who holds an old one open keeps it until he ends."""
        whole = RowCache(self.folder, self.about)
        small = _small(whole.files)
        parts = {i for file in small for i in whole.files[file]}
        for i in sorted(parts):
            mine = [(one, row) for one, (part, row) in whole.index.items() if part == i]
            rows = np.array([row for _, row in mine], np.int64)
            whole.add([one for one, _ in mine], pick(whole.parts, np.full(len(rows), i), rows))
        whole._write()
        whole._finish()
        for file in set(small) - whole._written if whole.lost is None else ():
            file.unlink(missing_ok=True)


class _NewFile:
    """A file of the cache while it is written."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f".new-{uuid.uuid4().hex}.{os.getpid()}"  # `sweep` removes it when the process is gone
        self.sink = pa.OSFile(str(self.path), "wb")
        self.writer = pa.ipc.new_file(self.sink, SCHEMA)
        self.tokens = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self.writer.write_batch(batch)
        self.tokens += len(batch.column("input_ids").values)

    def publish(self) -> Path:
        """Flush, and give the file the name of its digest."""
        try:
            self.writer.close()
            self.sink.close()
            flush(self.path)
            return self.path.rename(self.path.with_name(f"{digest_file(self.path)}.arrow"))
        finally:
            self.discard()

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)


MISSING = (-1, -1)


def to_batch(digests: list[bytes], rows: Encoded) -> pa.RecordBatch:
    """Rows as they lie on the disk: labels as one bit a token."""
    offsets = pa.array(rows.offsets.astype(np.int32))
    return pa.record_batch(
        [
            pa.array(digests, pa.binary(16)),
            pa.ListArray.from_arrays(offsets, pa.array(rows.ids)),
            pa.ListArray.from_arrays(offsets, pa.array(rows.labels != UNTRAINED)),
            pa.FixedSizeListArray.from_arrays(pa.array(rows.stats.reshape(-1)), len(STATS)),
            pa.array(rows.split, pa.string()),
            pa.array(rows.reasons, pa.string()),
        ],
        schema=SCHEMA,
    )


def from_batch(batch: pa.RecordBatch) -> tuple[list[bytes], Encoded]:
    """The rows of one file; ids stay where they are, memory-mapped."""
    lists = batch.column("input_ids")
    ids = lists.values.to_numpy()
    trained = batch.column("trained").values.to_numpy(zero_copy_only=False)
    rows = Encoded(
        ids,
        np.where(trained, ids, np.int32(UNTRAINED)),
        lists.offsets.to_numpy().astype(np.int64),
        batch.column("stats").flatten().to_numpy().reshape(-1, len(STATS)),
        batch.column("split").to_pylist(),
        batch.column("reason").to_pylist(),
        np.zeros(batch.num_rows, bool),
    )
    return batch.column("digest").to_pylist(), rows


def _small(files: Iterable[Path]) -> list[Path]:
    return [file for file in files if file.is_file() and file.stat().st_size < SMALL_BYTES]


def _derivable(rows: Encoded) -> np.ndarray:
    """Rows whose labels are their ids where they are trained: all but odd pretokenised ones."""
    if not rows.stats[:, COLUMN["trained_text"]].any():
        return np.ones(len(rows), bool)
    odd = (rows.labels != UNTRAINED) & (rows.labels != rows.ids)
    if not odd.any():
        return np.ones(len(rows), bool)
    counted = np.concatenate([[0], np.cumsum(odd)])
    return counted[rows.offsets[1:]] == counted[rows.offsets[:-1]]
