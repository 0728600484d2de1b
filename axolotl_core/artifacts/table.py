"""Tables on disk: plain Arrow IPC files, written by us so that their bytes depend on the rows alone.

A table is a folder of `part-NNNNN.arrow`. The caller gives batches of a fixed number of rows and parts are cut at a
fixed number of rows, so neither workers nor memory can be seen in the bytes; schema metadata is stripped.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pyarrow as pa

BLOCK_ROWS = 1000
PART_ROWS = 100 * BLOCK_ROWS


class TableWriter:
    """Writes batches into parts of PART_ROWS rows. An empty table is one part without rows."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder, self.schema = folder, schema.remove_metadata()
        self.rows = self.part = self.rows_in_part = 0
        self.writer: pa.RecordBatchFileWriter | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> "TableWriter":
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.writer is not None:
            self.writer.close()

    def write(self, batch: pa.RecordBatch) -> None:
        """Append a batch; a new part begins when this one holds PART_ROWS rows."""
        if self.rows_in_part >= PART_ROWS:
            self.writer.close()  # type: ignore[union-attr]
            self.part += 1
            self._open()
        self.writer.write_batch(batch.replace_schema_metadata(None))  # type: ignore[union-attr]
        self.rows += batch.num_rows
        self.rows_in_part += batch.num_rows

    def _open(self) -> None:
        self.writer = pa.ipc.new_file(str(self.folder / f"part-{self.part:05d}.arrow"), self.schema)
        self.rows_in_part = 0


def parts(folder: Path) -> list[Path]:
    """The part files in order."""
    return sorted(folder.glob("part-*.arrow"))


def batches(folder: Path) -> Iterator[pa.RecordBatch]:
    """Every record batch of a table in order, memory-mapped: nothing is copied until it is looked at."""
    for part in parts(folder):
        reader = pa.ipc.open_file(pa.memory_map(str(part)))
        for i in range(reader.num_record_batches):
            yield reader.get_batch(i)
