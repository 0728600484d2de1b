"""Running a model on packed rows so that samples never see each other, and proving it before training.

What keeps them apart is the attention backend's: its kind (attention/kinds/) says what the model is called with. transformers itself
splits a row by its positions only when no attention mask is passed and there is no cache; otherwise samples leak into each other without
an error. So nobody else in this code base calls a model on packed rows.

The output layer is run apart from the rest where that gives the same logits, so that a caller can make logits a few
positions at a time: 8,192 tokens × 128,256 words are 4 GiB in fp32.

B rows, T tokens, K positions, H features, V vocabulary
"""

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from axolotl_core.attention.choose import backend_of
from axolotl_core.attention.laid import Laid
from axolotl_core.attention.mask import known
from axolotl_core.attention.sequences import Sequences
from axolotl_core.models.positions import rewind


@dataclass(frozen=True)
class ForwardSpec:
    """How a model is run. method: how the family keeps samples apart where the backend does not (`models.packing`).

    split: logits are head(hidden).
    """

    method: Literal["positions", "layers", "mask"] = "positions"
    split: bool = False


def forward(
    model: Any, ids_BT: Tensor, positions_BT: Tensor, spec: ForwardSpec, keep_K: Tensor | None = None, sequences: Sequences | None = None
) -> Tensor:
    """Logits (B, T, V), or (B, K, V) at the positions `keep_K` where the model can do that.

    sequences: of the positions, taken from them where it is None, for which a GPU is waited for.
    """
    inner = unwrap(model)
    settings: dict[str, Any] = {}
    if keep_K is not None and "logits_to_keep" in inspect.signature(inner.forward).parameters:
        settings["logits_to_keep"] = keep_K.cpu() if is_spread(model) else keep_K
    logits_BTV = _run(inner, inner.dtype, ids_BT, positions_BT, spec, sequences, **settings).logits.to(ids_BT.device)
    return logits_BTV if keep_K is None or settings else logits_BTV[:, keep_K]


def hidden(model: Any, ids_BT: Tensor, positions_BT: Tensor, spec: ForwardSpec, sequences: Sequences | None = None) -> Tensor:
    """What the output layer gets (B, T, H); only with `spec.split`."""
    inner = unwrap(model)
    return _run(inner.base_model, inner.dtype, ids_BT, positions_BT, spec, sequences).last_hidden_state


def _run(
    module: Any,
    dtype: torch.dtype,
    ids_BT: Tensor,
    positions_BT: Tensor,
    spec: ForwardSpec,
    sequences: Sequences | None,
    **settings: Any,
) -> Any:
    sequences = sequences or Sequences.of(positions_BT).placed(positions_BT.device)
    laid = Laid(positions_BT, sequences, spec.method, dtype, module.config)
    if "position_ids" in inspect.signature(module.forward).parameters:
        settings["position_ids"] = positions_BT
    rewind(module)
    with known(several=len(sequences.lengths) > len(ids_BT)):
        return module(input_ids=ids_BT, use_cache=False, **backend_of(module).inputs(laid), **settings)


def is_spread(model: Any) -> bool:
    """Whether layers are in several places, so that the output layer may be on another GPU than its input and the first layer."""
    return len(set(getattr(model, "hf_device_map", {}).values())) > 1


def unwrap(model: Any) -> Any:
    """The transformers model inside peft's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
