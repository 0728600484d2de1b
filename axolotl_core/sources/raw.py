"""raw/<data set>: the rows as they came, one JSON text a row.

JSON text instead of typed columns: rows of any shape stream through in constant memory, a key that one row lacks is not
filled with null in it, and the row's bytes are its identity.

    row: '{"instruction":"Add","output":"2"}'   line: 3   file: 0   (manifest: sources: ["data/faq.jsonl"])
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from axolotl_core.artifacts.table import BLOCK_ROWS, TableWriter
from axolotl_core.errors import DataError

SCHEMA = pa.schema([("row", pa.string()), ("line", pa.int32()), ("file", pa.int32())])


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row of the user's and where it stands; `file` is as the user wrote it, `line` counts from 1."""

    file: str
    line: int
    values: dict[str, Any]


def write_raw(folder: Path, rows: Iterator[SourceRow], source: str) -> dict[str, Any]:
    """Write rows in the order they come; returns the facts {"rows": count, "sources": names of the files}.

    Raises DataError where there is no row, or one that is not JSON.
    """
    files: dict[str, int] = {}
    with TableWriter(folder, SCHEMA) as table:
        while block := list(islice(rows, BLOCK_ROWS)):
            texts = pa.array([_json(row) for row in block], pa.string())
            lines = pa.array([row.line for row in block], pa.int32())
            indexes = pa.array([files.setdefault(row.file, len(files)) for row in block], pa.int32())
            table.write(pa.record_batch([texts, lines, indexes], schema=SCHEMA))
    if table.rows == 0:
        raise DataError(f"{source}: the data set is empty, it has no row")
    return {"rows": table.rows, "sources": list(files)}


def read_raw(batch: pa.RecordBatch, sources: list[str]) -> list[SourceRow]:
    """The rows of one batch of the table; sources: that fact of the manifest."""
    columns = (batch.column(name).to_pylist() for name in ("row", "line", "file"))
    return [SourceRow(sources[file], line, orjson.loads(text)) for text, line, file in zip(*columns, strict=True)]


def _json(row: SourceRow) -> str:
    try:
        return orjson.dumps(row.values, default=_plain).decode()
    except (orjson.JSONEncodeError, UnicodeError) as error:
        raise DataError(f"{row.file}:{row.line}: the row cannot be kept as JSON: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        raise TypeError("a column holds bytes; remove it or turn it into text")
    return str(value)
