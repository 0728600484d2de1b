"""Which rows each optimizer step sees."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from axolotl_core.batches.plan import Plan, micro_batches_of_rank


@given(st.integers(1, 40), st.integers(1, 9), st.sampled_from([1.0, 2.0, 2.5]))
def test_each_epoch_sees_each_row_once(rows: int, batch_size: int, epochs: float):
    plan = Plan(rows, batch_size, epochs, seed=1)
    per_epoch = plan.steps_per_epoch
    for epoch in range(int(epochs)):
        seen = [row for step in range(epoch * per_epoch, (epoch + 1) * per_epoch) for row in plan.rows_of(step)]
        assert sorted(seen) == list(range(rows))
    assert plan.total == math.ceil(per_epoch * epochs)


def test_the_order_is_a_function_of_seed_and_epoch():
    plan, other = Plan(50, 50, 2, 0), Plan(50, 50, 2, 1)
    assert plan.rows_of(0) == Plan(50, 50, 2, 0).rows_of(0)
    assert plan.rows_of(0) != plan.rows_of(1)
    assert plan.rows_of(0) != other.rows_of(0)


def test_max_steps_ends_a_run_early():
    assert Plan(50, 5, 2, 0, max_steps=3).total == 3


def test_micro_batches_are_dealt_out_in_turns_and_every_process_has_as_many():
    dealt = [micro_batches_of_rank([5, 0, 2, 6, 1], 1, rank, 2) for rank in (0, 1)]
    assert [[list(micro.rows) for micro in one] for one in dealt] == [[[5], [2], [1]], [[0], [6], []]]
    assert [[micro.number for micro in one] for one in dealt] == [[0, 2, 4], [1, 3, 5]]


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 8))
def test_a_step_has_the_same_rows_whatever_the_processes(rows: int, micro: int, world: int):
    dealt = [micro_batches_of_rank(list(range(rows)), micro, rank, world) for rank in range(world)]
    assert sorted(row for one in dealt for part in one for row in part.rows) == list(range(rows))
    assert len({len(one) for one in dealt}) == 1
    assert all(len(part.rows) <= micro for one in dealt for part in one)


def test_rows_grouped_by_length_differ_little_within_a_batch_and_the_longest_comes_first():
    lengths = tuple(np.random.default_rng(0).integers(1, 1000, 400).tolist())
    grouped, plain = Plan(400, 4, 1, 0, lengths=lengths), Plan(400, 4, 1, 0)

    def spread(plan: Plan) -> float:
        batches = [[lengths[row] for row in plan.rows_of(step)] for step in range(plan.total)]
        return sum(max(batch) - min(batch) for batch in batches) / len(batches)

    assert spread(grouped) < spread(plain) / 5
    assert lengths[grouped.rows_of(0)[0]] == max(lengths)
    assert sorted(row for step in range(grouped.total) for row in grouped.rows_of(step)) == list(range(400))


def test_fractions_of_epochs_add_no_step():
    assert [Plan(50, 1, 1.1, 0).total, Plan(100, 1, 2.2, 0).total] == [55, 220]
