"""Rows of packed/ as batches."""

import pytest

from axolotl_core.batches.batch import Batch
from axolotl_core.batches.rows import RowSource
from tests.rows_in_memory import LENGTHS, source


def test_a_batch_defends_itself():
    batch = source(LENGTHS).batch([0])
    wrong = batch.labels_BT.clone()
    wrong[0, 0] = 5
    with pytest.raises(AssertionError, match="a sample's first label is trained by its neighbour"):
        Batch(batch.ids_BT, wrong, batch.positions_BT, batch.dataset_ids_BT)


@pytest.mark.parametrize(("pad", "length"), [(False, 64), (True, 100)])
def test_rows_are_padded_to_64_or_to_sequence_len(pad: bool, length: int):
    rows = source([20, 30], sequence_len=100)
    rows = RowSource(rows.rows, rows.samples, 0, 100, pad)
    assert rows.batch([0]).ids_BT.shape == (1, length)
