"""tokens/<data set>: written block by block with as many processes as one likes, read through memory maps.

The tokenizers library runs on all cores by itself; a second thread here prepares one block while another is encoded.
More processes pay off where there are so many cores that Python's part, a tenth of the work, holds the rest up.

The bytes are those of one process: blocks are those of raw/, and they are written in their order.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from axolotl_core.artifacts.table import TableWriter, batches, parts
from axolotl_core.errors import DataError
from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.resolve import format_of
from axolotl_core.sources.raw import read_raw
from axolotl_core.tokens.encode import SCHEMA, UNTRAINED, Block, encode_block
from axolotl_core.tokens.tokenizer import Tokenizer, read_tokenizer

THREADS = 2
MOST_PROBLEMS = 10


@dataclass(frozen=True)
class Encoder:
    """All that a process needs to encode a block; small, so that it can be sent to one."""

    raw: Path
    sources: list[str]
    tokenizer: Path
    data: Dataset
    train_on_inputs: bool

    def blocks(self, processes: int) -> Iterator[Block]:
        """Every block in order."""
        if processes == 1:
            worker = _Worker(self)
            with ThreadPoolExecutor(THREADS) as pool:
                yield from _in_order(pool, worker.encode, self.raw, THREADS)
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context, initializer=_start, initargs=(self, processes)) as pool:
            yield from _in_order(pool, _encode, self.raw, processes)


def _in_order(pool: Executor, encode: Callable[[Path, int, int], Block], raw: Path, workers: int) -> Iterator[Block]:
    """The encoded blocks in the order of raw/; only a few are on their way, which bounds memory."""
    waiting: deque[Future[Block]] = deque()
    for block in _blocks_of(raw):
        waiting.append(pool.submit(encode, *block))
        if len(waiting) > 2 * workers:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def write_tokens(out: Path, encoder: Encoder, processes: int) -> dict[str, Any]:
    """Encode every row of raw/ into `out`; returns the facts of the manifest.

    A row that cannot be read stops it: DataError with the first ten of them by file and line. A row without a trained
    token is dropped, counted, and written to rejected.jsonl.
    """
    problems: list[str] = []
    dropped: dict[str, int] = {}
    tokens = trained = longest = 0
    rejected = out / "rejected.jsonl"
    with TableWriter(out, SCHEMA) as table, rejected.open("wb") as rejects:
        for block in encoder.blocks(processes):
            problems += block.problems
            if len(problems) >= MOST_PROBLEMS:
                break
            for row, reason in block.rejected:
                dropped[reason] = dropped.get(reason, 0) + 1
                rejects.write(orjson.dumps({"reason": reason, "file": row.file, "line": row.line, "row": row.values}) + b"\n")
            if block.batch.num_rows:
                table.write(block.batch)
                lengths = np.diff(block.batch.column("input_ids").offsets.to_numpy())
                tokens, longest = tokens + int(lengths.sum()), max(longest, int(lengths.max()))
                trained += block.trained_tokens
    if problems:
        more = "\n(the first ten are shown)" if len(problems) >= MOST_PROBLEMS else ""
        raise DataError("\n".join(problems[:MOST_PROBLEMS]) + more)
    if table.rows == 0:
        raise DataError(f"{encoder.data.path}: the data set has no trained token: in all {sum(dropped.values())} rows the answer is empty")
    if not dropped:
        rejected.unlink()
    facts = {"rows": table.rows, "tokens": tokens, "trained_tokens": trained, "longest": longest, "dropped": dropped}
    return facts | {"excess_length": format_of(encoder.data).excess}


class _Worker:
    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.format = encoder, format_of(encoder.data)
        self.tokenizer: Tokenizer = read_tokenizer(encoder.tokenizer)

    def encode(self, part: Path, index: int, first: int) -> Block:
        batch = pa.ipc.open_file(pa.memory_map(str(part))).get_batch(index)
        rows = read_raw(batch, self.encoder.sources)
        return encode_block(rows, first, self.format, self.tokenizer, train_on_inputs=self.encoder.train_on_inputs)


_worker: _Worker | None = None


def _start(encoder: Encoder, processes: int) -> None:
    global _worker
    os.environ["RAYON_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // processes))
    _worker = _Worker(encoder)


def _encode(part: Path, index: int, first: int) -> Block:
    assert _worker is not None
    return _worker.encode(part, index, first)


def _blocks_of(folder: Path) -> Iterator[tuple[Path, int, int]]:
    """(part, index of its batch, index of the batch's first row) of a table."""
    first = 0
    for part in parts(folder):
        reader = pa.ipc.open_file(pa.memory_map(str(part)))
        for i in range(reader.num_record_batches):
            yield part, i, first
            first += reader.get_batch(i).num_rows


@dataclass
class Samples:
    """One data set's samples, memory-mapped. Sample i is the i-th row of tokens/<data set>."""

    folder: Path
    ids: list[np.ndarray] = field(init=False)
    labels: list[np.ndarray] = field(init=False)
    offsets: list[np.ndarray] = field(init=False)
    firsts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        found = list(batches(self.folder))
        self.ids = [batch.column("input_ids").values.to_numpy() for batch in found]
        self.labels = [batch.column("labels").values.to_numpy() for batch in found]
        self.offsets = [batch.column("input_ids").offsets.to_numpy() for batch in found]
        self.firsts = np.cumsum([0, *(batch.num_rows for batch in found)])

    def __len__(self) -> int:
        return int(self.firsts[-1])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sample, int32."""
        return np.concatenate([np.diff(offsets) for offsets in self.offsets] or [np.zeros(0, np.int32)])

    def sample(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """ids and labels of sample i, int32, views into the file."""
        b = int(np.searchsorted(self.firsts, i, side="right")) - 1
        start, end = self.offsets[b][i - self.firsts[b] : i - self.firsts[b] + 2]
        return self.ids[b][start:end], self.labels[b][start:end]

    def trained(self, samples: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """How many labels are trained in starts[i]..ends[i] of samples[i], one batch of the file at a time."""
        counts = np.zeros(len(samples), np.int64)
        blocks = np.searchsorted(self.firsts, samples, side="right") - 1
        for b in np.unique(blocks).tolist():
            mine = np.flatnonzero(blocks == b)
            before = np.concatenate([[0], np.cumsum(self.labels[b] != UNTRAINED)])
            first = self.offsets[b][samples[mine] - self.firsts[b]]
            counts[mine] = before[first + ends[mine]] - before[np.minimum(first + starts[mine], first + ends[mine])]
        return counts
