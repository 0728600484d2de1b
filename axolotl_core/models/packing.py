"""Running a model on packed rows so that samples never see each other, and proving it before training.

transformers splits a row by its positions only when no attention mask is passed and there is no cache; otherwise
samples leak into each other without an error. So nobody else in this code base calls a model on packed rows.

The output layer is run apart from the rest where that gives the same logits, so that a caller can make logits a few
positions at a time: 8,192 tokens × 128,256 words are 4 GiB in fp32.

B rows, T tokens, K positions, H features, V vocabulary
"""

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from axolotl_core.errors import ModelError

PROBE = (7, 5)
"""Lengths of the two samples of the self-test."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 6e-2, torch.float16: 1e-2}
"""Largest difference of logits, packed and apart, as a share of the largest logit."""


@dataclass(frozen=True)
class How:
    """How a model is run. packs: by restarting positions or by an additive mask. split: logits are head(hidden)."""

    packs: Literal["positions", "mask"] = "positions"
    split: bool = False


def forward(model: Any, ids_BT: Tensor, positions_BT: Tensor, how: How, keep_K: Tensor | None = None) -> Tensor:
    """Logits (B, T, V), or (B, K, V) at the positions `keep_K` where the model can do that."""
    whole = bare(model)
    inputs = _inputs(whole, whole.dtype, ids_BT, positions_BT, how)
    if keep_K is not None and "logits_to_keep" in inspect.signature(whole.forward).parameters:
        return whole(**inputs, logits_to_keep=keep_K).logits
    logits_BTV = whole(**inputs).logits
    return logits_BTV if keep_K is None else logits_BTV[:, keep_K]


def hidden(model: Any, ids_BT: Tensor, positions_BT: Tensor, how: How) -> Tensor:
    """What the output layer gets (B, T, H); only with `how.split`."""
    whole = bare(model)
    return whole.base_model(**_inputs(whole.base_model, whole.dtype, ids_BT, positions_BT, how)).last_hidden_state


def _inputs(module: Any, dtype: torch.dtype, ids_BT: Tensor, positions_BT: Tensor, how: How) -> dict[str, Any]:
    inputs: dict[str, Any] = {"input_ids": ids_BT, "use_cache": False}
    if how.packs == "mask":
        inputs["attention_mask"] = block_mask(positions_BT, dtype)
    if "position_ids" in inspect.signature(module.forward).parameters:
        inputs["position_ids"] = positions_BT
    return inputs


def block_mask(positions_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask (B, 1, T, T): 0 within a sample and not ahead, the dtype's minimum elsewhere.

    Additive, because a bool mask is silently wrong with eager attention.
    """
    samples_BT = (positions_BT == 0).cumsum(-1)
    same_BTT = samples_BT[:, :, None] == samples_BT[:, None, :]
    seen_BTT = same_BTT & torch.ones_like(same_BTT).tril()
    mask_BTT = torch.zeros(same_BTT.shape, dtype=dtype, device=positions_BT.device)
    return mask_BTT.masked_fill(~seen_BTT, torch.finfo(dtype).min)[:, None]


@torch.no_grad()
def splits(model: Any, how: How) -> bool:
    """Whether the logits are the output layer's, with nothing after it; Gemma 2 caps them, Cohere scales them."""
    head = model.get_output_embeddings()
    if head is None or model.base_model is model:
        return False
    ids, positions = _probe(model)[0]
    states = hidden(model, ids, positions, how)
    return states.shape[-1] == getattr(head, "in_features", None) and torch.equal(head(states), forward(model, ids, positions, how))


@torch.no_grad()
def self_test(model: Any, how: How) -> None:
    """Two samples packed and apart must give the same logits. Raises ModelError with the difference."""
    training = model.training
    model.eval()
    samples = _probe(model)
    packed = forward(model, *(torch.cat(column, 1) for column in zip(*samples, strict=True)), how).float()
    apart = torch.cat([forward(model, *sample, how) for sample in samples], 1).float()
    model.train(training)
    difference = float((packed - apart).abs().max() / apart.abs().max())
    if not difference <= TOLERANCE.get(model.dtype, 6e-2):
        raise ModelError(
            f"packed samples see each other in {type(bare(model)).__name__}: logits differ by {difference:.2g} of the largest; "
            "set packing.sample_packing: false"
        )


def _probe(model: Any) -> list[tuple[Tensor, Tensor]]:
    """Ids and positions of two short samples."""
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(bare(model).config.vocab_size, (1, n), generator=generator).to(model.device) for n in PROBE]
    return [(one, torch.arange(one.shape[1], device=model.device)[None]) for one in ids]


def bare(model: Any) -> Any:
    """The transformers model inside peft's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
