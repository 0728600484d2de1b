"""tokens/<dataset>: written block by block with as many processes as one likes.

The tokenizers library runs on all cores by itself; two more threads here prepare blocks while another is encoded.
More processes pay off where there are so many cores that Python's part, a tenth of the work, holds the rest up.

    raw block → digests of its rows → known rows from the row cache, new ones to a worker → one batch, in the rows' order

The bytes are those of one process and an empty cache: blocks are those of raw/, and they are written in their order.
"""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from axolotl_core import world
from axolotl_core.artifacts.table import TableWriter, batches
from axolotl_core.errors import DataError, MachineError
from axolotl_core.garbage import no_garbage_collection
from axolotl_core.params.datasets import Dataset
from axolotl_core.progress import progress
from axolotl_core.prompts.resolve import format_of
from axolotl_core.sources.raw import MOST_PROBLEMS, REJECTED, RawBlock, first_of, read_raw
from axolotl_core.tokens.encode import RowEncoder
from axolotl_core.tokens.encoded import Encoded, pick
from axolotl_core.tokens.report import MaskReport
from axolotl_core.tokens.rowcache import MISSING, RowCache, digests_of
from axolotl_core.tokens.tokenizer import read_tokenizer

SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32())), ("row", pa.int64())])
THREADS = 3
MOST_CHARACTERS = 1 << 26
"""Of the blocks that are on their way at once."""
MALFORMED = "malformed"


@dataclass(frozen=True)
class Encoder:
    """All that a process needs to encode rows; small, so that it can be sent to one. root: the folder of params.yaml."""

    raw: Path
    sources: list[str]
    tokenizer: Path
    data: Dataset
    train_on_inputs: bool
    root: Path = Path()

    def worker(self) -> RowEncoder:
        """The encoder of rows itself."""
        format = format_of(self.data, self.root)
        settings = {"train_on_inputs": self.train_on_inputs, "rename": self.data.rename, "join": self.data.join}
        return RowEncoder(format, read_tokenizer(self.tokenizer), **settings)

    def blocks(self, worker: RowEncoder, processes: int, cache: RowCache) -> Iterator[tuple[RawBlock, Encoded, int]]:
        """Every block in order: its rows as they came, encoded, and how many of them were not in the cache.

        worker: of this process; where there are several, each makes its own.
        """
        if processes == 1:
            with ThreadPoolExecutor(THREADS) as pool:
                yield from self._in_order(pool, worker.encode, THREADS, cache)
            return
        context = multiprocessing.get_context("spawn")
        try:
            with ProcessPoolExecutor(processes, context, initializer=_start, initargs=(self, processes)) as pool:
                yield from self._in_order(pool, _encode, processes, cache)
        except BrokenProcessPool:
            raise MachineError("a process that tokenises was killed, perhaps for want of memory; lower machine.dataset_processes") from None

    def _in_order(
        self, pool: Executor, encode: Callable[[Sequence[str]], Encoded], workers: int, cache: RowCache
    ) -> Iterator[tuple[RawBlock, Encoded, int]]:
        """Only a few blocks are on their way, which bounds memory."""
        waiting: deque[_Block] = deque()
        size = 0
        for batch in batches(self.raw):
            rows = read_raw(batch, self.sources)
            digests = digests_of(rows.texts)
            file, row = cache.find(digests)
            new = np.flatnonzero(file == MISSING)
            texts = [rows.texts[i] for i in new.tolist()]
            waiting.append(_Block(rows, digests, file, row, new, pool.submit(encode, texts) if texts else None))
            size += waiting[-1].size
            while len(waiting) > 2 * workers or (size > MOST_CHARACTERS and waiting):
                block = waiting.popleft()
                size -= block.size
                yield block.finish(cache)
        while waiting:
            yield waiting.popleft().finish(cache)


@dataclass(frozen=True)
class _Block:
    rows: RawBlock
    digests: np.ndarray
    file: np.ndarray
    row: np.ndarray
    new: np.ndarray
    """Indexes of the rows that are being encoded."""
    encoded: "Future[Encoded] | None"

    @property
    def size(self) -> int:
        """Characters of its rows."""
        return sum(map(len, self.rows.texts))

    def finish(self, cache: RowCache) -> tuple[RawBlock, Encoded, int]:
        made = self.encoded.result() if self.encoded else None
        if made is not None:
            cache.add(self.digests[self.new], made)
            if len(self.new) == len(self.digests):
                return self.rows, made, len(self.new)
        parts, part, row = cache.rows(self.file, self.row)
        part[self.new], row[self.new] = len(parts), np.arange(len(self.new))
        return self.rows, pick([*parts, *([made] if made is not None else [])], part, row), len(self.new)


@dataclass(frozen=True)
class Written:
    """What write_tokens did: facts for the manifest, the mask report, and the work: rows encoded and rows reused.

    markup: whether special tokens in the user's fields are tokens; notes: what the format says of itself.
    """

    facts: dict[str, Any]
    report: MaskReport
    encoded: int
    reused: int
    markup: bool
    notes: Sequence[str] = ()


def write_tokens(
    out: Path, encoder: Encoder, processes: int, cache: RowCache, *, strict: bool = True, rows_of_all: int | None = None
) -> Written:
    """Encode every row of raw/ into `out`. rows_of_all: how many there are, for the progress.

    A row that cannot be read stops it (DataError with the first ten by file and row) unless the dataset says
    `on_bad_row: skip`. Such rows and those without a target token are dropped, counted, and written to rejected.jsonl.
    strict: raise DataError for rows with a turn whose end is never trained, or whose ids do not give the text back.
    """
    problems: list[tuple[str, str]] = []
    dropped: dict[str, int] = {}
    report = MaskReport()
    first = encoded = 0
    rejected = out / REJECTED
    skip = encoder.data.on_bad_row == "skip"
    worker = encoder.worker()  # what is wrong with format or tokenizer is told here, not by processes that die
    with ExitStack() as stack:
        stack.callback(cache.close)  # what was encoded is kept, whatever comes
        stack.enter_context(no_garbage_collection())  # nothing here makes cycles, and walking the lists of ids takes 4 % of the time
        table, rejects = stack.enter_context(TableWriter(out, SCHEMA)), stack.enter_context(rejected.open("wb"))
        blocks = encoder.blocks(worker, processes, cache)
        for rows, made, new in progress(blocks, rows_of_all, f"tokenising {encoder.raw.name}", "rows", lambda block: len(block[1])):
            encoded += new
            for i, reason in enumerate(made.reasons):
                if reason is None:
                    continue
                if made.bad[i] and not skip:
                    problems.append((rows.place(i), reason))
                    continue
                name = MALFORMED if made.bad[i] else reason
                dropped[name] = dropped.get(name, 0) + 1
                rejects.write(rows.rejected(i, reason))
            if len(problems) >= MOST_PROBLEMS:
                break
            report.add(made, rows.place)
            kept = np.flatnonzero(made.lengths > 0)
            if len(kept):
                offsets = np.concatenate([made.offsets[:1], made.offsets[kept + 1]]).astype(np.int32)
                lists = (pa.ListArray.from_arrays(pa.array(offsets), pa.array(values)) for values in (made.ids, made.labels))
                table.write(pa.record_batch([*lists, pa.array(kept + first)], schema=SCHEMA))
            first += len(made)
    if problems:
        raise DataError(first_of(problems))
    if table.rows == 0:
        message = ", ".join(f"{count:,} dropped: {reason}" for reason, count in dropped.items())
        raise DataError(f"{encoder.data.path}: the dataset has no target token, no row is left ({message})")
    if strict and (message := report.refusal()):
        raise DataError(message)
    if not dropped:
        rejected.unlink()
    format = format_of(encoder.data, encoder.root)
    facts = {**report.sums(), "dropped": dropped, "excess_length": format.excess}
    return Written(facts, report, encoded, first - encoded, format.markup, worker.format.notes)


_worker: RowEncoder | None = None


def _start(encoder: Encoder, processes: int) -> None:
    global _worker
    world.end_with_parent()
    os.environ["RAYON_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // processes))
    _worker = encoder.worker()


def _encode(texts: Sequence[str]) -> Encoded:
    assert _worker is not None
    return _worker.encode(texts)
