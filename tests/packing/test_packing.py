"""Bins, plans and rows."""

import bisect
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_core.errors import DataError
from axolotl_core.packing.bins import members, pack_lengths
from axolotl_core.packing.index import read_rows, write_rows
from axolotl_core.packing.plan import SampleSpans, fit, hold_out, keep_shard, lay_out, split
from axolotl_core.params.packing import Packing


def best_fit_decreasing(lengths: list[int], capacity: int) -> list[int]:
    """Room left in each bin, one sample at a time: what pack_lengths does on counts."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        i = bisect.bisect_left(rooms, length)
        bisect.insort(rooms, (rooms.pop(i) if i < len(rooms) else capacity) - length)
    return rooms


@given(st.data(), st.integers(1, 60))
def test_bins_are_those_of_best_fit_decreasing(data: st.DataObject, capacity: int):
    lengths = data.draw(st.lists(st.integers(1, capacity), max_size=200))
    bins = pack_lengths(np.array(lengths, int), capacity)
    filled = np.bincount(bins, weights=lengths, minlength=0) if lengths else np.zeros(0)
    assert sorted(capacity - filled.astype(int)) == best_fit_decreasing(lengths, capacity)


@given(st.lists(st.integers(1, 30), max_size=100))
def test_every_sample_is_in_one_bin(lengths: list[int]):
    samples, offsets = members(pack_lengths(np.array(lengths, int), 30))
    assert sorted(samples.tolist()) == list(range(len(lengths)))
    assert offsets[-1] == len(lengths)
    assert (np.diff(offsets) > 0).all()


def test_real_lengths_come_within_a_thousandth_of_the_bound():
    lengths = np.clip(np.random.default_rng(0).lognormal(5.7, 0.8, 100_000).astype(int), 1, 4096)
    bound = -(-lengths.sum() // 4096)
    assert pack_lengths(lengths, 4096).max() + 1 <= 1.001 * bound


def test_the_example_of_the_docstring():
    assert pack_lengths(np.array([3, 3, 2, 2, 2]), 5).tolist() == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("lengths", [[0], [6]])
def test_a_length_that_cannot_fit_is_refused(lengths: list[int]):
    with pytest.raises(ValueError, match=r"lengths are \d to \d, wanted 1 to 5"):
        pack_lengths(np.array(lengths), 5)


@pytest.mark.parametrize(
    ("excess", "pieces", "long"),
    [
        ("drop", [(0, 0, 3), (2, 0, 4)], 1),
        ("truncate", [(0, 0, 3), (1, 0, 4), (2, 0, 4)], 1),
        ("split", [(0, 0, 3), (1, 0, 4), (1, 4, 8), (1, 8, 9), (2, 0, 4)], 1),
    ],
)
def test_samples_that_are_too_long(excess: str, pieces: list[tuple], long: int):
    whole, count = fit(7, np.array([3, 9, 4]), 4, excess)
    found = split(whole, 4)
    assert list(zip(found.sample.tolist(), found.start.tolist(), found.end.tolist(), strict=True)) == pieces
    assert count == long
    assert set(found.dataset.tolist()) == {7}


def pieces_of(lengths: list[int]) -> SampleSpans:
    return fit(0, np.array(lengths), 100, "drop")[0]


@pytest.mark.parametrize(("size", "held"), [(0, 0), (0.25, 5), (3, 3), (0.0, 0)])
def test_held_out_samples_and_training_samples_are_all_there_is(size: float, held: int):
    train, held_out = hold_out(pieces_of([5] * 20), size, seed=1)
    assert len(held_out) == held
    assert sorted([*train.sample, *held_out.sample]) == list(range(20))


def test_the_split_is_a_function_of_the_seed():
    pieces = pieces_of([5] * 50)
    assert hold_out(pieces, 5, 0)[1].sample.tolist() == hold_out(pieces, 5, 0)[1].sample.tolist()
    assert hold_out(pieces, 5, 0)[1].sample.tolist() != hold_out(pieces, 5, 1)[1].sample.tolist()


def test_holding_out_everything_is_an_error():
    with pytest.raises(DataError, match="val_set_size takes 3 samples out of 3; lower it, nothing is left to train on"):
        hold_out(pieces_of([1, 2, 3]), 3, 0)


def test_shards_take_turns():
    shard = keep_shard(pieces_of([1, 2, 3, 4, 5]), Packing(dataset_shard_num=2, dataset_shard_idx=1))
    assert shard.sample.tolist() == [1, 3]


def test_without_packing_each_sample_has_its_row():
    rows = lay_out(pieces_of([3, 4]), 100, packed=False)
    assert np.diff(rows.offsets).tolist() == [1, 1]


def test_a_plan_is_read_back_as_written(tmp_path: Path):
    rows = lay_out(pieces_of(np.random.default_rng(0).integers(1, 100, 5000).tolist()), 100, packed=True)
    write_rows(tmp_path, rows)
    back = read_rows(tmp_path)
    assert back.offsets.tolist() == rows.offsets.tolist()
    for name in ("dataset", "sample", "start", "end"):
        assert getattr(back.pieces, name).tolist() == getattr(rows.pieces, name).tolist()


def test_a_plan_without_rows_can_be_read(tmp_path: Path):
    write_rows(tmp_path, lay_out(pieces_of([]), 100, packed=True))
    assert len(read_rows(tmp_path)) == 0


def test_a_text_that_is_split_is_on_one_side_of_the_hold_out():
    train, held_out = (split(part, 4) for part in hold_out(fit(0, np.array([9] * 10), 4, "split")[0], 3, seed=0))
    assert (len(train), len(held_out)) == (21, 9)
    assert not set(train.sample) & set(held_out.sample)
