"""Loss, perplexity and token accuracy on validation rows, overall and per dataset."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from axolotl_core.batches.batch import Inputs
from axolotl_core.batches.rows import RowSource
from axolotl_core.models.load import Loaded
from axolotl_core.objectives.cross_entropy import token_losses
from axolotl_core.progress import progress


def evaluate(
    token_losses_fn: Callable[[Inputs], tuple[Tensor, Tensor]],
    batches: Iterable[Inputs],
    names: Sequence[str],
    reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """{"loss" in nats per token, "perplexity", "accuracy", "tokens", "datasets": {name: the same four}}.

    token_losses_fn: a batch → `objectives.cross_entropy.token_losses`. reduce: sums over processes that each take a part. stop: called
    after each batch; once it is true the evaluation ends, with None.
    Sums over tokens, so every target token weighs the same whatever row it lies in. No rows: all values None.
    """
    sums = torch.zeros(len(names), 3, dtype=torch.float64)
    for inputs in batches:
        loss_N, right_N = token_losses_fn(inputs)
        columns = torch.stack([loss_N, right_N.float(), torch.ones_like(loss_N)], 1).cpu().double()  # MPS has no float64
        sums.index_add_(0, inputs.dataset_ids_N.cpu(), columns)
        if stop():
            return None
    sums = reduce(sums)
    found = {name: _facts(*row.tolist()) for name, row in zip(names, sums, strict=True)}
    return _facts(*sums.sum(0).tolist()) | {"datasets": found}


def _facts(loss: float, right: float, tokens: float) -> dict[str, Any]:
    if tokens == 0:
        return {"loss": None, "perplexity": None, "accuracy": None, "tokens": 0}
    mean = loss / tokens
    return {"loss": mean, "perplexity": math.exp(min(mean, 700.0)), "accuracy": right / tokens, "tokens": int(tokens)}


def evaluate_rows(loaded: Loaded, rows: RowSource, names: Sequence[str], batch_size: int, *, title: str) -> dict[str, Any]:
    """`evaluate` of all rows in this process. names: of the datasets; title: of the progress bar."""
    batches = (batch.place(loaded.model.device) for batch in rows.batches(range(len(rows)), batch_size))
    shown = progress(batches, -(-len(rows) // batch_size), title)
    found = evaluate(partial(token_losses, loaded.model, spec=loaded.spec), shown, names)
    assert found is not None, "nothing stops it"
    return found
