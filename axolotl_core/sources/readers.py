"""Files → rows, one reader a suffix. Each yields (line, row): line counts from 1, row is a dict, or Bad.

data/faq.jsonl, line 3: {"instruction": "Add"}  →  (3, {"instruction": "Add"})

A row that is malformed by itself is Bad and reading goes on; a file that cannot be read further is a DataError.
"""

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from axolotl_core.errors import DataError, nearest
from axolotl_core.sources.place import SUFFIXES

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that is none: what to tell of it, and what could be read."""

    told: str
    value: Any


Numbered = Iterator[tuple[int, Row | Bad]]
READ_ROWS = 1000
csv.field_size_limit(2**31 - 1)  # the default is too short for documents


def read_json(path: Path, shown: str) -> Numbered:
    """A list of objects, or one object a line, whatever the file is called."""
    with path.open("rb") as file:
        while (first := file.read(1)).isspace() or first in (b"\xef", b"\xbb", b"\xbf"):
            pass
    return _json_list(path, shown) if first == b"[" else read_jsonl(path, shown)


def read_jsonl(path: Path, _: str) -> Numbered:
    """One object a line; empty lines are skipped but counted."""
    with path.open("rb") as file:
        for line, text in enumerate(file, 1):
            text = text.removeprefix(b"\xef\xbb\xbf") if line == 1 else text
            if text.isspace():
                continue
            try:
                yield line, _object(orjson.loads(text))
            except orjson.JSONDecodeError as error:
                yield line, Bad(f"malformed JSON: {error}; it begins with {_beginning(text)}", text.decode("utf-8", "replace"))


def read_csv(path: Path, shown: str) -> Numbered:
    """The first line names the columns; every value is text."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                if None in row or None in row.values():
                    got = sum(v is not None for k, v in row.items() if k is not None) + len(row.get(None) or ())
                    told = f"got {got} fields, wanted {len(reader.fieldnames or ())}"
                    yield reader.line_num, Bad(told, [v for v in row.values() if v is not None])
                else:
                    yield reader.line_num, row
        except csv.Error as error:
            raise DataError(f"{shown}:{reader.line_num}: malformed CSV: {error}") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{shown}: not UTF-8 text: {error}") from None


def read_text(path: Path, shown: str) -> Numbered:
    """Each line that is not empty is a row {"text": line}."""
    with path.open(encoding="utf-8-sig") as file:
        try:
            for line, text in enumerate(file, 1):
                if text.strip():
                    yield line, {"text": text.rstrip("\r\n")}
        except UnicodeDecodeError as error:
            raise DataError(f"{shown}: not UTF-8 text: {error}") from None


def read_parquet(path: Path, shown: str) -> Numbered:
    try:
        yield from _numbered(pq.ParquetFile(path).iter_batches(batch_size=READ_ROWS))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{shown}: not a parquet file: {error}") from None


def read_arrow(path: Path, shown: str) -> Numbered:
    """An Arrow IPC file, or the stream that the datasets library writes under the same suffix."""
    source = pa.memory_map(str(path))
    try:
        reader = pa.ipc.open_file(source)
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
    except pa.ArrowInvalid:
        try:
            batches = iter(pa.ipc.open_stream(pa.memory_map(str(path))))
        except pa.ArrowInvalid as error:
            raise DataError(f"{shown}: not an Arrow file: {error}") from None
    try:
        yield from _numbered(batches)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{shown}: a damaged Arrow file: {error}") from None


READERS: dict[str, Callable[[Path, str], Numbered]] = {
    "json": read_json,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "text": read_text,
    "parquet": read_parquet,
    "arrow": read_arrow,
}


def read_file(path: Path, shown: str, ds_type: str | None = None) -> Numbered:
    """Rows of a file, by `ds_type` or by its suffix; errors call it `shown`.

    Raises DataError: unknown suffix, malformed content.
    """
    kind = ds_type or SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"{shown}: cannot tell the kind of file from '{path.suffix}'{nearest(path.suffix, SUFFIXES)}; set ds_type")
    return READERS[kind](path, shown)


def _json_list(path: Path, shown: str) -> Numbered:
    try:
        rows = orjson.loads(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise DataError(f"{shown}:{error.lineno}: malformed JSON: {error}") from None
    for i, row in enumerate(rows, 1):
        yield i, _object(row)


def _numbered(batches: Iterator[pa.RecordBatch]) -> Numbered:
    line = 0
    for batch in batches:
        for row in batch.to_pylist():
            line += 1
            yield line, row


def _object(row: Any) -> Row | Bad:
    if isinstance(row, dict):
        return row
    return Bad(f'got {_beginning(orjson.dumps(row))}, wanted an object such as {{"instruction": …}}', row)


def _beginning(text: bytes) -> str:
    shown = io.BytesIO(text).read(60).decode("utf-8", "replace").strip()
    return f"'{shown}…'" if len(text) > 60 else f"'{shown}'"
