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


@dataclass(frozen=True)
class ForwardSpec:
    """How a model is run. packs: by restarting positions or by an additive mask. split: logits are head(hidden)."""

    packs: Literal["positions", "mask"] = "positions"
    split: bool = False


def forward(model: Any, ids_BT: Tensor, positions_BT: Tensor, spec: ForwardSpec, keep_K: Tensor | None = None) -> Tensor:
    """Logits (B, T, V), or (B, K, V) at the positions `keep_K` where the model can do that."""
    inner = unwrap(model)
    inputs = _inputs(inner, inner.dtype, ids_BT, positions_BT, spec)
    if keep_K is not None and "logits_to_keep" in inspect.signature(inner.forward).parameters:
        return inner(**inputs, logits_to_keep=keep_K).logits
    logits_BTV = inner(**inputs).logits
    return logits_BTV if keep_K is None else logits_BTV[:, keep_K]


def hidden(model: Any, ids_BT: Tensor, positions_BT: Tensor, spec: ForwardSpec) -> Tensor:
    """What the output layer gets (B, T, H); only with `spec.split`."""
    inner = unwrap(model)
    return inner.base_model(**_inputs(inner.base_model, inner.dtype, ids_BT, positions_BT, spec)).last_hidden_state


def _inputs(module: Any, dtype: torch.dtype, ids_BT: Tensor, positions_BT: Tensor, spec: ForwardSpec) -> dict[str, Any]:
    inputs: dict[str, Any] = {"input_ids": ids_BT, "use_cache": False}
    if spec.packs == "mask":
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


def unwrap(model: Any) -> Any:
    """The transformers model inside peft's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
