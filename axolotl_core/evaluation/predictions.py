"""The table of predictions: validation prompts, what the data goes on with, and what the model makes of them."""

from collections.abc import Sequence
from typing import Any

import torch

from axolotl_core.evaluation.replies import Prompt, reply, stops_of
from axolotl_core.models.forward import ForwardSpec, forward
from axolotl_core.tokens.tokenizer import Tokenizer


@torch.no_grad()
def predictions(model: Any, spec: ForwardSpec, chosen: Sequence[Prompt], tokenizer: Tokenizer, max_new_tokens: int) -> list[dict[str, Any]]:
    """A row a prompt. Each prompt is run by itself, so nothing is padded; the likeliest tokens stand where they are predicted.

    {"id", "Prompt", "Correct Completion", "Predicted Completion" (greedy), "Predicted Tokens" (each after the data's own)}
    """
    training = model.training
    model.eval()
    rows, stops = [], stops_of(model, tokenizer, chosen)
    for number, prompt in enumerate(chosen):
        ids_1T = torch.tensor([[*prompt.ids, *prompt.expected]], device=model.device)
        likeliest_1T = forward(model, ids_1T, torch.arange(ids_1T.shape[1], device=model.device)[None], spec).argmax(-1)
        after = likeliest_1T[0, len(prompt.ids) - 1 : -1].tolist()
        ids = reply(model, prompt.ids, stops=stops, pad_id=tokenizer.pad_id, max_new_tokens=max_new_tokens)
        texts = (prompt.ids, prompt.expected, ids, after)
        columns = ("Prompt", "Correct Completion", "Predicted Completion", "Predicted Tokens")
        rows.append({"id": number, **{column: tokenizer.text(ids) for column, ids in zip(columns, texts, strict=True)}})
    model.train(training)
    return rows
