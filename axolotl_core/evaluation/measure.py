"""Loss, perplexity and token accuracy on held-out rows, overall and per data set."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from axolotl_core.training.batches import Inputs


def measure(
    each: Callable[[Inputs], tuple[Tensor, Tensor]],
    batches: Iterable[Inputs],
    names: Sequence[str],
    together: Callable[[Tensor], Tensor] = lambda sums: sums,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
    """{"loss" in nats a token, "perplexity", "accuracy", "tokens", "datasets": {name: the same four}}.

    each: what `training.loss.losses` says of a batch. together: sums over processes that each measure a part. stop: asked after
    each batch; once it says so nothing is measured, and None given.
    Sums over tokens, so every trained token weighs the same whatever row it lies in. No rows: all values None.
    """
    sums = torch.zeros(len(names), 3, dtype=torch.float64)
    for inputs in batches:
        loss_N, right_N = each(inputs)
        columns = torch.stack([loss_N, right_N.float(), torch.ones_like(loss_N)], 1).cpu().double()  # MPS has no float64
        sums.index_add_(0, inputs.sets_N.cpu(), columns)
        if stop():
            return None
    sums = together(sums)
    found = {name: _facts(*row.tolist()) for name, row in zip(names, sums, strict=True)}
    return _facts(*sums.sum(0).tolist()) | {"datasets": found}


def _facts(loss: float, right: float, tokens: float) -> dict[str, Any]:
    if tokens == 0:
        return {"loss": None, "perplexity": None, "accuracy": None, "tokens": 0}
    mean = loss / tokens
    return {"loss": mean, "perplexity": math.exp(min(mean, 700.0)), "accuracy": right / tokens, "tokens": int(tokens)}
