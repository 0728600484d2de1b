"""Cross-entropy as a sum over trained tokens, with logits only where a label is trained.

    ids      a  b  c  d        position 1 predicts label c, position 2 predicts d:
    labels   -  -  c  d        the head runs at positions 1 and 2 alone

The sum, not the mean: means of micro-batches with unequal masks must not be averaged.

B rows, T tokens, K positions with a label in some row, N trained tokens, V vocabulary
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from axolotl_core.models.packing import forward
from axolotl_core.packing.lay import UNTRAINED
from axolotl_core.training.batches import Batch


class Predicted(NamedTuple):
    """Logits (N, V) in fp32, the labels (N) they are held against, and the data set of each (N)."""

    logits_NV: Tensor
    labels_N: Tensor
    sets_N: Tensor


def predict(model: Any, batch: Batch, how: str) -> Predicted:
    """Logits at the positions that predict a trained label, over the whole batch."""
    trained_BT = batch.labels_BT[:, 1:] != UNTRAINED
    keep_K = trained_BT.any(0).nonzero()[:, 0]
    logits_BKV = forward(model, batch.ids_BT, batch.positions_BT, how, keep_K)
    chosen_BK = trained_BT[:, keep_K]
    labels_N = batch.labels_BT[:, 1:][:, keep_K][chosen_BK]
    sets_N = batch.sets_BT[:, 1:][:, keep_K][chosen_BK]
    return Predicted(logits_BKV[chosen_BK].float(), labels_N, sets_N)


def loss_sum(model: Any, batch: Batch, how: str) -> Tensor:
    """Sum of cross-entropy over the batch's trained tokens, in nats, a scalar with a gradient."""
    logits_NV, labels_N, _ = predict(model, batch, how)
    return functional.cross_entropy(logits_NV, labels_N, reduction="sum")


@torch.no_grad()
def losses(model: Any, batch: Batch, how: str) -> tuple[Tensor, Tensor, Tensor]:
    """Per trained token: loss (N) in nats, whether the likeliest token is the label (N), its data set (N)."""
    logits_NV, labels_N, sets_N = predict(model, batch, how)
    loss_N = functional.cross_entropy(logits_NV, labels_N, reduction="none")
    return loss_N, logits_NV.argmax(-1) == labels_N, sets_N
