"""A row of several samples: ids, labels, positions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_core.batches.collate import collate_row
from axolotl_core.labels import IGNORE_INDEX


def test_the_row_of_the_docstring():
    samples = [(np.array(ids), np.array(ids)) for ids in ([5, 6, 7], [8, 9])]
    collated = collate_row(samples, 6, pad_id=0)
    assert collated.ids.tolist() == [5, 6, 7, 8, 9, 0]
    assert collated.labels.tolist() == [IGNORE_INDEX, 6, 7, IGNORE_INDEX, 9, IGNORE_INDEX]
    assert collated.positions.tolist() == [0, 1, 2, 0, 1, 0]
    assert collated.bounds.tolist() == [0, 3, 5]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(0, 20))
def test_labels_never_cross_sample_bounds(lengths: list[int], padding: int):
    samples = [(np.full(n, i + 1), np.full(n, i + 1)) for i, n in enumerate(lengths)]
    collated = collate_row(samples, sum(lengths) + padding, pad_id=0)
    for at in range(1, len(collated.ids)):
        if collated.labels[at] != IGNORE_INDEX:  # predicted from the token before it, which must be of the same sample
            assert collated.ids[at - 1] == collated.ids[at] == collated.labels[at]
    assert (collated.labels[collated.positions == 0] == IGNORE_INDEX).all()


def test_samples_that_do_not_fit_a_row_are_refused():
    with pytest.raises(ValueError, match="the samples have 3 tokens, the row has room for 2"):
        collate_row([(np.arange(3), np.arange(3))], 2, 0)
