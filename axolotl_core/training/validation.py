"""The validation rows while training: their metrics, each process a part of them, and the table of predictions."""

from collections.abc import Callable, Iterator
from typing import Any

import torch

from axolotl_core.batches.batch import Inputs
from axolotl_core.batches.plan import micro_batches_of_rank
from axolotl_core.batches.rows import Data
from axolotl_core.distributed.strategy import Strategy
from axolotl_core.evaluation.evaluate import evaluate
from axolotl_core.evaluation.predictions import predictions
from axolotl_core.evaluation.replies import prompts
from axolotl_core.params.evaluation import Evaluation
from axolotl_core.progress import progress
from axolotl_core.training.setup import Ready


def evaluate_validation(strategy: Strategy, data: Data, batch_size: int, stop: Callable[[], bool]) -> dict[str, Any] | None:
    """`evaluate` of the validation rows; None where `stop` ended it. Every process must call this."""

    def batches() -> Iterator[Inputs]:
        mine = micro_batches_of_rank(range(len(data.validation)), batch_size, strategy.rank, strategy.ranks)
        for micro in progress(mine, len(mine), "evaluation"):
            inputs = data.validation.batch(micro.rows or [0]).place(strategy.device)
            yield inputs if micro.rows else inputs.untrained()

    strategy.objective.eval()
    found = evaluate(lambda inputs: strategy.objective(inputs, per_token=True), batches(), data.names, strategy.sum, stop)
    strategy.objective.train()
    return found


def predict_validation(ready: Ready, autocast: torch.dtype | None, data: Data, evaluation: Evaluation) -> list[dict[str, Any]]:
    """Rows of the table of predictions, from a forward pass in the dtype of training."""
    chosen = prompts(data.validation, evaluation.eval_table_size)
    with torch.autocast(ready.device.type, autocast, enabled=autocast is not None):
        return predictions(ready.model, ready.spec, chosen, data.tokenizer, evaluation.eval_table_max_new_tokens)
