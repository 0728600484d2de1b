"""Loss, perplexity and accuracy on validation rows."""

import math
from functools import partial

import pytest

from axolotl_core.evaluation.evaluate import evaluate
from axolotl_core.objectives.cross_entropy import loss_sum, token_losses
from tests.rows_in_memory import CPU, LENGTHS, SPLIT, source


def test_measure_weighs_every_token_the_same(model):
    rows = source(LENGTHS)
    batches = (batch.place(CPU) for batch in rows.batches(range(len(rows)), 2))
    found = evaluate(partial(token_losses, model, spec=SPLIT), batches, ["memory"])
    total = sum(float(loss_sum(model, rows.batch([i]).place(CPU), SPLIT).detach()) for i in range(len(rows)))
    tokens = sum(rows.batch([i]).targets for i in range(len(rows)))
    assert found["tokens"] == tokens
    assert found["loss"] == pytest.approx(total / tokens, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["datasets"] == {"memory": {k: v for k, v in found.items() if k != "datasets"}}


def test_measure_without_rows_has_no_number(model):
    assert evaluate(partial(token_losses, model, spec=SPLIT), [], ["memory"])["loss"] is None
