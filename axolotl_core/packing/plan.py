"""From the lengths of all samples to the rows of training and evaluation.

    1. fit        samples over sequence_len are dropped, cut, or kept to be split; each is counted
    2. shard      keep sample i where i modulo dataset_shard_num is dataset_shard_idx
    3. shuffle    all datasets together, from shuffle_seed
    4. hold out   the first val_set_size of them, and all of the datasets that are held out
    5. split      what is still too long, after the hold-out: a text is on one side of it as a whole
    6. pack       best-fit decreasing, or one sample a row

The result names pieces of samples, it copies no token: another mixture or sequence_len costs megabytes and seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from axolotl_core.errors import DataError
from axolotl_core.packing.bins import members, pack_lengths
from axolotl_core.params.packing import Packing


@dataclass(frozen=True)
class SampleSpans:
    """Parts of samples, one an index: tokens start..end of sample `sample` of dataset `dataset`."""

    dataset: np.ndarray
    sample: np.ndarray
    start: np.ndarray
    end: np.ndarray

    def __len__(self) -> int:
        return len(self.sample)

    def __getitem__(self, chosen: np.ndarray | slice) -> "SampleSpans":
        return SampleSpans(self.dataset[chosen], self.sample[chosen], self.start[chosen], self.end[chosen])

    @property
    def lengths(self) -> np.ndarray:
        return self.end - self.start

    @staticmethod
    def join(parts: Sequence["SampleSpans"]) -> "SampleSpans":
        return SampleSpans(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("dataset", "sample", "start", "end")))


@dataclass(frozen=True)
class Rows:
    """Spans of samples in rows: row r holds pieces[offsets[r]:offsets[r + 1]]."""

    pieces: SampleSpans
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1


def fit(dataset: int, lengths: np.ndarray, sequence_len: int, excess: str) -> tuple[SampleSpans, int]:
    """One piece a sample of one dataset, and how many samples were too long.

    excess: `drop`, `truncate` (its first sequence_len tokens) or `split` (whole for now, `split` cuts it).
    """
    samples, long = np.arange(len(lengths)), lengths > sequence_len
    samples = samples[~long] if excess == "drop" else samples
    end = lengths[samples] if excess == "split" else np.minimum(sequence_len, lengths[samples])
    which, start = np.full(len(samples), dataset, np.int32), np.zeros(len(samples), np.int32)
    return SampleSpans(which, samples.astype(np.int64), start, end.astype(np.int32)), int(long.sum())


def split(pieces: SampleSpans, sequence_len: int) -> SampleSpans:
    """Consecutive pieces of at most sequence_len tokens: 9 tokens, sequence_len 4 → 0..4, 4..8, 8..9."""
    each = -(-pieces.lengths // sequence_len)
    whole = pieces[np.repeat(np.arange(len(pieces)), each)]
    number = np.arange(len(whole)) - np.repeat(np.cumsum(each) - each, each)
    start = (whole.start + number * sequence_len).astype(np.int32)
    return SampleSpans(whole.dataset, whole.sample, start, np.minimum(start + sequence_len, whole.end).astype(np.int32))


def hold_out(pieces: SampleSpans, size: float | int, seed: int | None) -> tuple[SampleSpans, SampleSpans]:
    """(train, eval) after a shuffle, or with seed None as they come. size: a share below 1, or a count.

    Raises DataError when nothing is left to train on.
    """
    order = np.arange(len(pieces)) if seed is None else np.random.default_rng(seed).permutation(len(pieces))
    count = round(size * len(pieces)) if isinstance(size, float) and size < 1 else int(size)
    if count >= len(pieces):
        raise DataError(f"val_set_size takes {count} samples out of {len(pieces)}; lower it, nothing is left to train on")
    return pieces[order[count:]], pieces[order[:count]]


def lay_out(pieces: SampleSpans, sequence_len: int, packed: bool) -> Rows:
    """Rows of several pieces each, or of one."""
    if not packed:
        return Rows(pieces, np.arange(len(pieces) + 1))
    samples, offsets = members(pack_lengths(pieces.lengths, sequence_len))
    return Rows(pieces[samples], offsets)


def keep_shard(pieces: SampleSpans, packing: Packing) -> SampleSpans:
    """One shard of N, taken in turns."""
    if packing.dataset_shard_num is None:
        return pieces
    return pieces[slice(packing.dataset_shard_idx, None, packing.dataset_shard_num)]
