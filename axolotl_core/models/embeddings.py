"""Embedding rows of tokens that are new to a model."""

from typing import Any

import torch

from axolotl_core.params.model import Model

RESIZE_SEED = 0
"""New embedding rows are drawn the same way by train, evaluate, merge and inference."""


def embedding_rows(tokens: int, model: Model) -> int:
    """Rows that the embeddings need for so many tokens, which is what load_model takes as `vocabulary`."""
    return -(-tokens // 32) * 32 if model.resize_token_embeddings_to_32x else tokens


def grow_embeddings(model: Any, vocabulary: int) -> None:
    """Add embedding rows up to `vocabulary`, drawn from a fixed seed on the CPU: a GPU would draw others."""
    if vocabulary <= model.get_input_embeddings().num_embeddings:
        return
    device = model.get_input_embeddings().weight.device
    for module in ends(model):
        module.to("cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RESIZE_SEED)
        model.resize_token_embeddings(vocabulary)
    for module in ends(model):
        module.to(device)


def ends(model: Any) -> list[Any]:
    """The input embeddings and the output layer."""
    return [module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None]
