"""Replies of the model to prompts of the data, so that a change can be seen and not only measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from axolotl_core.batches.rows import RowSource
from axolotl_core.labels import IGNORE_INDEX
from axolotl_core.models.forward import unwrap
from axolotl_core.progress import progress
from axolotl_core.tokens.tokenizer import Tokenizer

MOST_LOOKED_AT = 1000


@dataclass(frozen=True)
class Prompt:
    """ids up to the first target token of a sample, and the ids that the data goes on with."""

    dataset: int
    ids: list[int]
    expected: list[int]


def prompts(rows: RowSource, count: int) -> list[Prompt]:
    """The first `count` samples that begin with a prompt without targets, taken from the datasets in turns.

    Of each dataset no more than MOST_LOOKED_AT samples are looked at: some have no prompts at all.
    """
    by_set: dict[int, list[Prompt]] = {}
    pieces = rows.rows.pieces
    for i in _beginnings(pieces.dataset):
        data, sample, start = pieces.dataset[i], pieces.sample[i], pieces.start[i]
        if len(by_set.get(int(data), ())) == count:
            continue
        ids, labels = rows.samples[data].sample(int(sample))
        trained = np.flatnonzero(labels != IGNORE_INDEX)
        found = by_set.setdefault(int(data), [])
        if start == 0 and len(trained) and trained[0] > 0:
            end = trained[0] + int(np.argmin(np.append(labels[trained[0] :] != IGNORE_INDEX, False)))
            found.append(Prompt(int(data), ids[: trained[0]].tolist(), ids[trained[0] : end].tolist()))
    turns = [p for i in range(count) for found in by_set.values() for p in found[i : i + 1]]
    return turns[:count]


def _beginnings(datasets: np.ndarray) -> list[int]:
    """Indexes of the first MOST_LOOKED_AT of each dataset, ascending."""
    order = np.argsort(datasets, kind="stable")
    ranks = np.arange(len(order)) - np.searchsorted(datasets[order], datasets[order], side="left")
    return sorted(order[ranks < MOST_LOOKED_AT].tolist())


def stops_of(model: Any, tokenizer: Tokenizer, chosen: Sequence[Prompt]) -> list[int]:
    """Ids that end a reply: the tokenizer's and the model's ends of sequence, and the added token that an expected reply ends with."""
    turn_ends = [prompt.expected[-1] for prompt in chosen if prompt.expected and prompt.expected[-1] in tokenizer.ends]
    return tokenizer.stop_ids(unwrap(model).generation_config.eos_token_id, turn_ends)


@torch.no_grad()
def reply(model: Any, prompt: list[int], *, stops: Sequence[int], pad_id: int, max_new_tokens: int) -> list[int]:
    """Greedy continuation, without the prompt and without what follows the first of the stop tokens."""
    ids_1T = torch.tensor([prompt], device=model.device)
    out_1T = model.generate(
        input_ids=ids_1T,
        attention_mask=torch.ones_like(ids_1T),
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=list(stops),
        pad_token_id=pad_id,
        use_cache=True,
    )
    return out_1T[0, len(prompt) :].tolist()


def replies(model: Any, tokenizer: Tokenizer, chosen: Sequence[Prompt], max_new_tokens: int, *, title: str) -> list[str]:
    """A greedy reply to each prompt, as text. title: of the progress bar."""
    stops = stops_of(model, tokenizer, chosen)
    shown = progress(chosen, len(chosen), title, "replies")
    found = [reply(model, prompt.ids, stops=stops, pad_id=tokenizer.pad_id, max_new_tokens=max_new_tokens) for prompt in shown]
    return [tokenizer.text(ids) for ids in found]
