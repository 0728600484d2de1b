"""raw/<dataset>: the rows as they came, one JSON text a row.

JSON text instead of typed columns: rows of any shape stream through in constant memory, a key that one row lacks is not
filled with null in it, and the row's bytes are its identity.

    row: '{"instruction":"Add","output":"2"}'   line: 3   file: 0   (manifest: sources: ["data/faq.jsonl"])
"""

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from axolotl_core.artifacts.table import BLOCK_ROWS, TableWriter
from axolotl_core.errors import DataError
from axolotl_core.sources.exact import dumps, loads

SCHEMA = pa.schema([("row", pa.string()), ("line", pa.int32()), ("file", pa.int32())])
REJECTED = "rejected.jsonl"
MOST_PROBLEMS = 10
BLOCK_BYTES = 1 << 25
"""Of the rows of a block, so that what is made of it fits in memory."""
MOST_BYTES = 2**31 - 1


@dataclass(frozen=True, slots=True)
class SourceRow:
    """A row of the user's and where it stands; `file` is as the user wrote it, `line` counts from 1.

    `problem` says why it is none; `values` is then what could be read of it.
    """

    file: str
    line: int
    values: Any
    problem: str | None = None


@dataclass(frozen=True)
class RawBlock:
    """Rows of one batch of the table: JSON texts, and where they stand in the user's files."""

    texts: list[str]
    lines: list[int]
    files: list[int]
    sources: list[str]

    def place(self, i: int) -> str:
        """`data/faq.jsonl:3`."""
        return f"{self.sources[self.files[i]]}:{self.lines[i]}"

    def rejected(self, i: int, reason: str) -> bytes:
        """A line of rejected.jsonl."""
        return rejected_line(reason, self.sources[self.files[i]], self.lines[i], loads(self.texts[i]))


def write_raw(folder: Path, rows: Iterator[SourceRow], source: str, *, skip: bool = False, max_bytes: int | None = None) -> dict[str, Any]:
    """Write rows in the order they come; returns the facts {"rows": count, "sources": names of the files}.

    skip: rows with a problem go to rejected.jsonl and are counted as `malformed`; else they are an error.
    max_bytes: stop with the row that reaches so many bytes.
    Raises DataError where there is no row, one that is not JSON, or (the first ten of) those with a problem.
    """
    files: dict[str, int] = {}
    problems: list[tuple[str, str]] = []
    rejected = written = 0
    rejects = folder / REJECTED
    with TableWriter(folder, SCHEMA) as table, rejects.open("wb") as out:
        for block in _blocks(rows):
            good = [(row, text) for row, text in block if text is not None]
            for row, text in block:
                if text is not None:
                    continue
                if skip:
                    rejected += 1
                    out.write(rejected_line(str(row.problem), row.file, row.line, row.values))
                else:
                    problems.append((f"{row.file}:{row.line}", str(row.problem)))
            if len(problems) >= MOST_PROBLEMS:
                break
            if not good:
                continue
            if max_bytes is not None:
                ends = list(accumulate((len(text) for _, text in good), initial=written))[1:]
                stop = bisect_left(ends, max_bytes) + 1
                good, written = good[:stop], ends[min(stop, len(ends)) - 1]
            lines = pa.array([row.line for row, _ in good], pa.int32())
            indexes = pa.array([files.setdefault(row.file, len(files)) for row, _ in good], pa.int32())
            table.write(pa.record_batch([pa.array([text for _, text in good], pa.string()), lines, indexes], schema=SCHEMA))
            if max_bytes is not None and written >= max_bytes:
                break
    if problems:
        raise DataError(first_of(problems))
    if table.rows == 0:
        message = f"; all of its {rejected} rows are malformed, the first at {_first(rejects)}" if rejected else ", it has no row"
        raise DataError(f"{source}: the dataset is empty{message}")
    if not rejected:
        rejects.unlink()
    return {"rows": table.rows, "sources": list(files), **({"malformed": rejected} if rejected else {})}


def rejected_line(reason: str, file: str, line: int, row: Any) -> bytes:
    """A line of rejected.jsonl."""
    return dumps({"reason": reason, "file": file, "line": line, "row": row}) + b"\n"


def first_of(problems: list[tuple[str, str]]) -> str:
    """At most ten problems, (place, reason) each: a line for each reason, at its first place."""
    shown = problems[:MOST_PROBLEMS]
    lines = []
    for reason in dict.fromkeys(reason for _, reason in shown):
        places = [place for place, other in shown if other == reason]
        lines.append(f"{places[0]}: {reason}" + (f" (the same: {', '.join(places[1:])})" if places[1:] else ""))
    more = "\n(the first ten are shown; `on_bad_row: skip` leaves malformed rows out)" if len(problems) >= MOST_PROBLEMS else ""
    return "\n".join(lines) + more


def read_raw(batch: pa.RecordBatch, sources: list[str]) -> RawBlock:
    """The rows of one batch of the table; sources: that fact of the manifest."""
    return RawBlock(*(batch.column(name).to_pylist() for name in ("row", "line", "file")), sources)


def _first(rejects: Path) -> str:
    with rejects.open("rb") as file:
        row = loads(next(file))
    return f"{row['file']}:{row['line']}: {row['reason']}"


def _blocks(rows: Iterator[SourceRow]) -> Iterator[list[tuple[SourceRow, bytes | None]]]:
    """Rows with their JSON, which a malformed one has not: BLOCK_ROWS at once, or fewer where they are long."""
    block: list[tuple[SourceRow, bytes | None]] = []
    size = 0
    for row in rows:
        text = _json(row) if row.problem is None else None
        if block and (len(block) == BLOCK_ROWS or size + len(text or b"") > BLOCK_BYTES):
            yield block
            block, size = [], 0
        block.append((row, text))
        size += len(text or b"")
    if block:
        yield block


def _json(row: SourceRow) -> bytes:
    try:
        text = dumps(row.values)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{row.file}:{row.line}: the row cannot be kept as JSON: {error}") from None
    if len(text) > MOST_BYTES:
        raise DataError(f"{row.file}:{row.line}: the row has {len(text):,} bytes, a table holds {MOST_BYTES:,} at most; split it")
    return text
