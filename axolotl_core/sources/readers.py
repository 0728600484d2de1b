"""Files → rows, one reader a kind. Each yields (line, row): line counts from 1, row is a dict, or Bad.

data/faq.jsonl, line 3: {"instruction": "Add"}  →  (3, {"instruction": "Add"})

A row that is malformed by itself is Bad and reading goes on; a file that cannot be read further is a DataError. Text files may
be compressed (`.gz`, `.bz2`, `.xz`, `.zst`). Values come as they are: integers of any size, nulls, every key once.
"""

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from axolotl_core.errors import DataError, nearest, one_line
from axolotl_core.sources.exact import dumps, loads
from axolotl_core.sources.opened import BOM, opened
from axolotl_core.sources.place import ARCHIVES, COMPRESSED, SUFFIXES, kind_of
from axolotl_core.sources.steady import Source

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Bad:
    """A malformed row: what is wrong with it, and what could be read."""

    problem: str
    value: Any


Numbered = Iterator[tuple[int, Row | Bad]]
Tell = Callable[[str], None]
"""Gets sentences for the user."""
Open = Callable[[Path], AbstractContextManager[Source]]
READ_ROWS = 1000
SKIPPED = b" \t\r\n\v\f" + BOM
WRAPPERS = ("data", "rows", "examples", "train", "records", "instances")
"""Keys under which a JSON file that is one object keeps its list of rows."""
OF_ONE_ROW = frozenset({"messages", "conversations", "conversation", "turns", "tools", "tool_calls", "choices"})
"""Lists of objects that are part of one row."""


def silent(_: str) -> None:
    """Tells nobody."""


csv.field_size_limit(2**31 - 1)  # the default is too short for documents


def read_json(source: Source, shown: str, tell: Tell = silent) -> Numbered:
    """A list of objects, one object a line, or one object with the list in it, whatever the file is called."""
    with opened(source, shown) as file:
        while (ahead := file.peek(1)) and not ahead.lstrip(SKIPPED):  # type: ignore[attr-defined]
            file.read(len(ahead))
        file.read(len(ahead) - len(ahead.lstrip(SKIPPED)))
        first = file.read(1)
        line = first + file.readline()
        alone = _parsed(line)
        more = any(not text.isspace() for text in file) if first == b"{" and alone is not None else True
    key = _wrapped(alone)
    one_row = kind_of(source.path) == "jsonl" or not (key in WRAPPERS or (key and len(alone) == 1))  # of an object on one line
    whole = first == b"[" or (first == b"{" and (alone is None or not (more or one_row)))
    if not whole:
        yield from read_jsonl(source, shown)
        return
    with opened(source, shown) as file:
        text = file.read().removeprefix(BOM)
    try:
        value = loads(text)
    except ValueError as error:
        if first == b"{" or alone is not None:  # rows a line, of which the first is malformed
            yield from read_jsonl(source, shown)
            return
        raise DataError(f"{shown}:{getattr(error, 'lineno', 1)}: malformed JSON: {error}") from None
    rows = value if isinstance(value, list) else _list_in(value, shown, tell)
    if rows and not any(isinstance(row, dict) for row in rows) and alone is not None:  # one list a line
        yield from read_jsonl(source, shown)
        return
    yield from ((i, _object(row)) for i, row in enumerate(rows, 1))


def _parsed(line: bytes) -> Any:
    try:
        return loads(line)
    except ValueError:
        return None


def _wrapped(value: Any) -> str | None:
    """The key of an object under which its rows are, if that is clear."""
    if not isinstance(value, dict):
        return None
    lists = [name for name, rows in value.items() if isinstance(rows, list) and rows and all(map(_is_row, rows))]
    named = [name for name in WRAPPERS if name in lists]
    if named:
        return named[0]
    return lists[0] if len(lists) == 1 and lists[0] not in OF_ONE_ROW else None


def _is_row(value: Any) -> bool:
    """An object, but no message of a conversation."""
    return isinstance(value, dict) and not value.keys() & {"role", "from"}


def _list_in(value: dict[str, Any], shown: str, tell: Tell) -> list[Any]:
    """The rows of a file that is one object. Raises DataError that says its shape."""
    if name := _wrapped(value):
        others = ", ".join(key for key in value if key != name)
        tell(f"{shown} is one object, its rows are the list '{name}'" + (f"; not read: {others}" if others else ""))
        return list(value[name])
    keys = ", ".join(list(value)[:8]) + (", …" if len(value) > 8 else "")
    shape = f"is one object with the keys {keys}"
    if value and all(isinstance(inner, list) and not any(isinstance(one, dict) for one in inner) for inner in value.values()):
        shape += ", which look like columns"
    elif value and all(isinstance(inner, dict) for inner in value.values()):
        shape += ", which look like rows under their numbers or names"
    raise DataError(f"{shown}: {shape}; wanted a list of objects [{{…}}, {{…}}], or one object a line")


def read_jsonl(source: Source, shown: str) -> Numbered:
    """One object a line; empty lines are skipped but counted."""
    with opened(source, shown) as file:
        for line, text in enumerate(file, 1):
            text = text.removeprefix(BOM) if line == 1 else text
            if text.isspace():
                continue
            try:
                yield line, _object(loads(text))
            except ValueError as error:
                yield line, Bad(f"malformed JSON: {error}; it begins with {_beginning(text)}", text.decode("utf-8", "replace"))


def read_csv(source: Source, shown: str, delimiter: str = ",") -> Numbered:
    """The first line names the columns; every value is text."""
    with opened(source, shown) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:  # type: ignore[type-var]
        reader = csv.DictReader(text, strict=True, delimiter=delimiter)
        try:
            names = list(reader.fieldnames or ())
            _once(names, f"{shown}:1")
            for row in reader:
                if None in row or None in row.values():
                    got = sum(v is not None for k, v in row.items() if k is not None) + len(row.get(None) or ())
                    problem = f"got {got} fields, wanted {len(names)}"
                    yield reader.line_num, Bad(problem, [v for v in row.values() if v is not None])
                else:
                    yield reader.line_num, row
        except csv.Error as error:
            raise DataError(f"{shown}:{reader.line_num}: malformed CSV: {error}") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{shown}: not UTF-8 text: {error}") from None


def read_tsv(source: Source, shown: str) -> Numbered:
    """As csv, with tabs."""
    return read_csv(source, shown, "\t")


def read_text(source: Source, shown: str, split: str | None = None, tell: Tell = silent) -> Numbered:
    """Rows {"text": …} of a text file, with the line each begins in. split: `line`, `paragraph` (unset) or `file`."""
    if split is None:
        tell("a sample of a text file is a paragraph, between lines that are empty (text_split: line | paragraph | file)")
    first, held = 1, list[str]()
    with opened(source, shown) as file, io.TextIOWrapper(file, encoding="utf-8-sig") as lines:  # type: ignore[type-var]
        try:
            for line, text in enumerate(lines, 1):
                if split == "line" or (split != "file" and not text.strip()):
                    held += [text] if split == "line" else []
                    yield from _told(first, held)
                    first, held = line + 1, []
                    continue
                first = first if held else line
                held.append(text)
            yield from _told(first, held)
        except UnicodeDecodeError as error:
            raise DataError(f"{shown}: not UTF-8 text: {error}") from None


def _told(first: int, lines: list[str]) -> Numbered:
    if any(line.strip() for line in lines):
        yield first, {"text": "".join(lines).rstrip("\r\n")}


def read_parquet(source: Source, shown: str) -> Numbered:
    try:
        with source.open() as file:
            yield from _numbered(pq.ParquetFile(file).iter_batches(batch_size=READ_ROWS), shown)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{shown}: not a parquet file: {one_line(error)}") from None


def read_arrow(source: Source, shown: str) -> Numbered:
    """An Arrow IPC file, or the stream that the datasets library writes under the same suffix.

    It is read, not mapped: a mapped file that another process cuts short would end this one.
    """
    with source.open() as file:
        try:
            reader = pa.ipc.open_file(pa.PythonFile(file))
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        except pa.ArrowException:
            file.seek(0)
            try:
                batches = iter(pa.ipc.open_stream(pa.PythonFile(file)))
            except pa.ArrowException as error:
                raise DataError(f"{shown}: not an Arrow file: {one_line(error)}") from None
        try:
            yield from _numbered(batches, shown)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{shown}: a damaged Arrow file: {one_line(error)}") from None


READERS: dict[str, Callable[[Source, str], Numbered]] = {
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
    "arrow": read_arrow,
}
BINARY = ("parquet", "arrow")


@contextmanager
def as_it_is(path: Path) -> Iterator[Source]:
    source = Source(path)
    try:
        yield source
    finally:
        source.close()


def read_file(
    path: Path, shown: str, ds_type: str | None = None, tell: Tell = silent, text_split: str | None = None, open: Open = as_it_is
) -> Numbered:
    """Rows of a file, by `ds_type` or by its suffix; errors call it `shown`. text_split: what a sample of a text file is.

    open: `Steady.open` where the file must be the one of a key.
    Raises DataError: unknown suffix, an archive, malformed content, a file that may not be read.
    """
    suffix = path.suffix.lower()
    kind = ds_type or kind_of(path)
    if suffix in ARCHIVES:
        raise DataError(f"{shown}: is an archive of files; unpack it and name the folder")
    if kind is None:
        remedy = "set ds_type" if _could_be_read(path) else f"convert it to one of {', '.join(sorted(SUFFIXES))}"
        raise DataError(f"{shown}: cannot tell the kind of file from '{suffix}'{nearest(suffix, SUFFIXES)}; {remedy}")
    if kind in BINARY and suffix in COMPRESSED:
        raise DataError(f"{shown}: {kind} files are compressed inside; decompress this one first")
    try:
        with open(path) as source:
            if kind == "text":
                yield from read_text(source, shown, text_split, tell)
            elif kind in ("json", "jsonl"):
                yield from read_json(source, shown, tell)
            else:
                yield from READERS[kind](source, shown)
    except OSError as error:
        raise DataError(f"{shown}: cannot be read: {error.strerror or error}") from None


def _could_be_read(path: Path) -> bool:
    """Whether a file could be text or tables under another suffix: it holds no NUL byte in its beginning, or a mark that is known."""
    with path.open("rb") as file:
        beginning = file.read(1024)
    return b"\0" not in beginning or beginning.startswith((b"PAR1", b"ARROW1"))


def _numbered(batches: Iterator[pa.RecordBatch], shown: str) -> Numbered:
    line = 0
    for batch in batches:
        _once(batch.schema.names, shown)
        batch.validate(full=True)  # offsets that lead out of it, text that is no UTF-8
        for row in batch.to_pylist():
            line += 1
            yield line, {name: without_fillers(value) for name, value in row.items()}


def _once(names: list[str], place: str) -> None:
    """Raises DataError for a column that is there twice."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{place}: the column '{twice[0]}' is there twice; give each a name of its own")


def without_fillers(value: Any) -> Any:
    """Values of a typed file without the nulls that fill in where another row has a key; a message keeps its own."""
    if isinstance(value, dict):
        message = "role" in value or "from" in value
        return {key: without_fillers(inner) for key, inner in value.items() if inner is not None or message}
    return [without_fillers(inner) for inner in value] if isinstance(value, list) else value


def _object(row: Any) -> Row | Bad:
    if isinstance(row, dict):
        return row
    return Bad(f'got {_beginning(dumps(row))}, wanted an object such as {{"instruction": …}}', row)


def _beginning(text: bytes) -> str:
    shown = io.BytesIO(text).read(60).decode("utf-8", "replace").strip()
    return f"'{shown}…'" if len(text) > 60 else f"'{shown}'"
