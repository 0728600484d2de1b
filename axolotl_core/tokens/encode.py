"""Rows → ids and labels, a block at a time.

    segments   ["### Instruction:…Response:\\n", "2" train end]
    ids        14   3   88 … 7 | 34   2         one encode_batch_fast over all segments of the block
    labels   -100 -100 -100 …  | 34   2         set together with the ids, so they cannot drift

Each segment is encoded by itself, BOS goes in front of a row if the tokenizer adds one, EOS after a segment that
says `end`. Labels are not shifted.
"""

from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import pyarrow as pa

from axolotl_core.errors import DataError
from axolotl_core.prompts import resolve
from axolotl_core.prompts.example import Example, Format
from axolotl_core.sources.raw import SourceRow
from axolotl_core.tokens.tokenizer import Tokenizer

UNTRAINED = -100
SCHEMA = pa.schema([("input_ids", pa.list_(pa.int32())), ("labels", pa.list_(pa.int32())), ("row", pa.int64())])
NO_TRAINED_TOKEN = "no trained token"


@dataclass
class Block:
    """What became of a block of rows. `rejected`: (row, reason); `problems`: sentences that name the row."""

    batch: pa.RecordBatch
    trained_tokens: int = 0
    rejected: list[tuple[SourceRow, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def encode_block(rows: list[SourceRow], first: int, format: Format, tokenizer: Tokenizer, *, train_on_inputs: bool = False) -> Block:
    """Encode the rows whose index in raw/ begins at `first`."""
    block = Block(pa.record_batch([[], [], []], schema=SCHEMA))
    examples: list[Example] = []
    indexes: list[int] = []
    for i, row in enumerate(rows, first):
        try:
            example = resolve.read(format, row.values)
        except DataError as error:
            block.problems.append(f"{row.file}:{row.line}: {error}")
            continue
        if any(segment.train for segment in example.segments):
            examples.append(example)
            indexes.append(i)
        else:
            block.rejected.append((row, NO_TRAINED_TOKEN))
    if examples:
        ids, labels, offsets = encode(examples, tokenizer, train_on_inputs)
        block.batch = pa.record_batch([_lists(ids, offsets), _lists(labels, offsets), pa.array(indexes, pa.int64())], schema=SCHEMA)
        block.trained_tokens = int(np.count_nonzero(labels != UNTRAINED))
    return block


def encode(examples: list[Example], tokenizer: Tokenizer, train_on_inputs: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Flat ids, flat labels (int32 both), and offsets (int32, one more than examples) into them."""
    segments = [segment for example in examples for segment in example.segments]
    encoded = tokenizer.backend.encode_batch_fast([segment.text for segment in segments], add_special_tokens=False)
    pieces: list[list[int]] = [encoding.ids for encoding in encoded]
    for piece, segment in zip(pieces, segments, strict=True):
        if segment.end and (not piece or piece[-1] != tokenizer.eos_id):
            piece.append(tokenizer.eos_id)
    counts = np.fromiter((len(example.segments) for example in examples), np.int64, len(examples))
    starts = np.cumsum(counts) - counts
    if tokenizer.bos:
        for i in starts.tolist():
            pieces[i][:0] = tokenizer.bos
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    ids = np.fromiter(chain.from_iterable(pieces), np.int32, int(lengths.sum()))
    trained = np.fromiter((segment.train or train_on_inputs for segment in segments), bool, len(segments))
    labels = np.where(np.repeat(trained, lengths), ids, np.int32(UNTRAINED))
    offsets = np.zeros(len(examples) + 1, np.int32)
    np.cumsum(np.add.reduceat(lengths, starts), out=offsets[1:])
    return ids, labels, offsets


def _lists(values: np.ndarray, offsets: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values, pa.int32()))
