"""Running a model on packed rows so that samples never see each other, and proving it before training.

transformers splits a row by its positions only when no attention mask is passed and there is no cache; otherwise
samples leak into each other without an error. So nobody else in this code base calls a model on packed rows.
"""

import inspect
from typing import Any

import torch
from torch import Tensor

from axolotl_core.errors import ModelError

PROBE = (7, 5)
"""Lengths of the two samples of the self-test."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 6e-2, torch.float16: 1e-2}
"""Largest difference of logits, packed and apart, as a share of the largest logit."""


def forward(model: Any, ids_BT: Tensor, positions_BT: Tensor, how: str, keep_K: Tensor | None = None) -> Tensor:
    """Logits (B, T, V), or (B, K, V) at the positions `keep_K` where the model can do that."""
    inputs: dict[str, Any] = {"input_ids": ids_BT, "use_cache": False}
    accepts = inspect.signature(_bare(model).forward).parameters
    if how == "mask":
        inputs["attention_mask"] = block_mask(positions_BT, model.dtype)
    if "position_ids" in accepts:
        inputs["position_ids"] = positions_BT
    if keep_K is not None and "logits_to_keep" in accepts:
        return model(**inputs, logits_to_keep=keep_K).logits
    logits_BTV = model(**inputs).logits
    return logits_BTV if keep_K is None else logits_BTV[:, keep_K]


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
def self_test(model: Any, how: str) -> None:
    """Two samples packed and apart must give the same logits. Raises ModelError with the difference."""
    training = model.training
    model.eval()
    generator = torch.Generator().manual_seed(0)
    samples = [torch.randint(_bare(model).config.vocab_size, (1, n), generator=generator).to(model.device) for n in PROBE]
    positions = [torch.arange(n, device=model.device)[None] for n in PROBE]
    packed = forward(model, torch.cat(samples, 1), torch.cat(positions, 1), how).float()
    apart = torch.cat([forward(model, *pair, how) for pair in zip(samples, positions, strict=True)], 1).float()
    model.train(training)
    difference = float((packed - apart).abs().max() / apart.abs().max())
    if not difference <= TOLERANCE.get(model.dtype, 6e-2):
        raise ModelError(
            f"packed samples see each other in {type(_bare(model)).__name__}: logits differ by {difference:.2g} of the largest; "
            "set packing.sample_packing: false"
        )


def _bare(model: Any) -> Any:
    """The transformers model inside accelerate's and peft's wrappers."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model
