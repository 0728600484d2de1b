"""Loss, perplexity and token accuracy on held-out rows, overall and per data set."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from axolotl_core.training.batches import RowSource
from axolotl_core.training.loss import losses


def measure(model: Any, rows: RowSource, names: Sequence[str], how: str, batch_size: int) -> dict[str, Any]:
    """{"loss" in nats a token, "perplexity", "accuracy", "tokens", "datasets": {name: the same four}}.

    Sums over tokens, so every trained token weighs the same whatever row it lies in. No rows: all values None.
    """
    training = model.training
    model.eval()
    sums = torch.zeros(len(names), 3, dtype=torch.float64)
    for batch in rows.batches(range(len(rows)), batch_size):
        if batch.targets:
            loss_N, right_N, sets_N = losses(model, batch.to(model.device), how)
            columns = torch.stack([loss_N, right_N.float(), torch.ones_like(loss_N)], 1).cpu().double()  # MPS has no float64
            sums.index_add_(0, sets_N.cpu(), columns)
    model.train(training)
    each = {name: _facts(*row.tolist()) for name, row in zip(names, sums, strict=True)}
    return _facts(*sums.sum(0).tolist()) | {"datasets": each}


def _facts(loss: float, right: float, tokens: float) -> dict[str, Any]:
    if tokens == 0:
        return {"loss": None, "perplexity": None, "accuracy": None, "tokens": 0}
    mean = loss / tokens
    return {"loss": mean, "perplexity": math.exp(min(mean, 700.0)), "accuracy": right / tokens, "tokens": int(tokens)}
