"""packed/: the plan on disk. train/ and eval/ are tables with a row of training a row.

dataset [0, 0, 1]   sample [17, 4, 90]   start [0, 0, 0]   end [212, 80, 219]
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from axolotl_core.artifacts.table import BLOCK_ROWS, TableWriter, batches
from axolotl_core.packing.plan import Rows, SampleSpans

TYPES = {"dataset": pa.int32(), "sample": pa.int64(), "start": pa.int32(), "end": pa.int32()}
SCHEMA = pa.schema([(name, pa.list_(kind)) for name, kind in TYPES.items()])


def write_rows(folder: Path, rows: Rows) -> None:
    """Write a plan; no rows give an empty table."""
    with TableWriter(folder, SCHEMA) as table:
        for first in range(0, len(rows), BLOCK_ROWS):
            offsets = rows.offsets[first : first + BLOCK_ROWS + 1]
            pieces = rows.pieces[slice(offsets[0], offsets[-1])]
            ends = pa.array((offsets - offsets[0]).astype(np.int32))
            columns = [pa.ListArray.from_arrays(ends, pa.array(getattr(pieces, name), kind)) for name, kind in TYPES.items()]
            table.write(pa.record_batch(columns, schema=SCHEMA))


def read_rows(folder: Path) -> Rows:
    """A whole plan in memory: 20 bytes a piece."""
    found = list(batches(folder))
    if not found:
        empty = SampleSpans(*(np.zeros(0, kind.to_pandas_dtype()) for kind in TYPES.values()))
        return Rows(empty, np.zeros(1, np.int64))
    columns = [np.concatenate([batch.column(name).values.to_numpy() for batch in found]) for name in TYPES]
    counts = np.concatenate([np.diff(batch.column("sample").offsets.to_numpy()) for batch in found])
    return Rows(SampleSpans(*columns), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
