"""Rows of the plan → tensors.   B rows, T tokens"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from axolotl_core.artifacts import manifest
from axolotl_core.batches.batch import Batch
from axolotl_core.batches.collate import PackedRow, collate_row
from axolotl_core.labels import IGNORE_INDEX
from axolotl_core.packing.index import read_rows
from axolotl_core.packing.plan import Rows
from axolotl_core.tokens.samples import Samples
from axolotl_core.tokens.tokenizer import Tokenizer

ROUND_TO = 64
"""Rows that are not padded to sequence_len are padded to a multiple of this."""


@dataclass(frozen=True)
class RowSource:
    """Rows of packed/train or packed/eval with the tokens they name."""

    rows: Rows
    samples: Sequence[Samples]
    pad_id: int
    sequence_len: int
    pad_to_sequence_len: bool

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The rows of these numbers, padded to one length."""
        pieces = [self._pieces(number) for number in numbers]
        longest = max(sum(len(ids) for _, ids, _ in row) for row in pieces)
        rounded = -(-longest // ROUND_TO) * ROUND_TO
        length = self.sequence_len if self.pad_to_sequence_len else min(rounded, max(self.sequence_len, longest))
        collated = [collate_row([(ids, labels) for _, ids, labels in row], length, self.pad_id) for row in pieces]
        sets = [_dataset_ids([name for name, _, _ in row], one) for row, one in zip(pieces, collated, strict=True)]
        columns = ([one.ids for one in collated], [one.labels for one in collated], [one.positions for one in collated], sets)
        return Batch(*(torch.from_numpy(np.stack(column)) for column in columns))

    def targets(self, numbers: Sequence[int]) -> int:
        """Target tokens of the rows of these numbers: what `batch(numbers).targets` is, without making tensors."""
        return sum(int((labels[1:] != IGNORE_INDEX).sum()) for number in numbers for _, _, labels in self._pieces(number))

    def sample_lengths(self, numbers: Sequence[int]) -> list[int]:
        """Tokens of each sample in the rows of these numbers."""
        pieces = (self.rows.pieces[slice(*self.rows.offsets[number : number + 2])] for number in numbers)
        return [int(length) for row in pieces for length in row.end - row.start]

    def lengths(self) -> tuple[int, ...]:
        """Tokens of each row."""
        sizes = np.concatenate([[0], np.cumsum(self.rows.pieces.end - self.rows.pieces.start)])
        return tuple(np.diff(sizes[self.rows.offsets]).tolist())

    def batches(self, numbers: Sequence[int], size: int) -> Iterator[Batch]:
        """Batches of at most `size` rows, in order."""
        for first in range(0, len(numbers), size):
            yield self.batch(numbers[first : first + size])

    def _pieces(self, number: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
        found = []
        pieces = self.rows.pieces[slice(*self.rows.offsets[number : number + 2])]
        for data, sample, start, end in zip(pieces.dataset, pieces.sample, pieces.start, pieces.end, strict=True):
            ids, labels = self.samples[data].sample(int(sample))
            found.append((int(data), ids[start:end], labels[start:end]))
        return found


def _dataset_ids(names: list[int], collated: PackedRow) -> np.ndarray:
    sets = np.full(len(collated.ids), -1, np.int64)
    for name, start, end in zip(names, collated.bounds[:-1], collated.bounds[1:], strict=True):
        sets[start:end] = name
    return sets


@dataclass(frozen=True)
class Data:
    """Rows to train on and validation rows; names: of the datasets; tokens: of all training rows; new_tokens: new to the base model."""

    train: RowSource
    validation: RowSource
    names: Sequence[str]
    packed: bool
    validation_packed: bool
    tokens: int
    target_tokens: int
    tokenizer: Tokenizer
    new_tokens: Sequence[str] = ()


def open_data(packed: Path, tokens: Path, tokenizer: Tokenizer) -> Data:
    """The rows of packed/, over the tokens that it names, in the tokenizer that made them."""
    facts = manifest.read(packed)
    train, validation = (open_rows(packed, part, tokens, facts, tokenizer.pad_id) for part in ("train", "eval"))
    return Data(
        train,
        validation,
        facts["datasets"],
        packed=any(_is_packed(facts[part]) for part in ("train", "eval")),
        validation_packed=_is_packed(facts["eval"]),
        tokens=facts["train"]["tokens"],
        target_tokens=facts["train"]["trained_tokens"],
        tokenizer=tokenizer,
        new_tokens=manifest.read(tokenizer.folder).get("new_tokens", ()),
    )


def _is_packed(part: dict) -> bool:
    """Whether a row holds several samples."""
    return bool(part["samples"] > part["rows"])


def open_rows(packed: Path, part: str, tokens: Path, facts: dict, pad_id: int) -> RowSource:
    """`part` is train or eval; facts: the manifest of packed/."""
    samples = [Samples(tokens / name) for name in facts["datasets"]]
    return RowSource(read_rows(packed / part), samples, pad_id, facts["sequence_len"], facts["pad_to_sequence_len"])
