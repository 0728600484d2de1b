"""Floating-point operations of training, from a model's shape: those that the mathematics needs (Chowdhery et al. 2022, arXiv 2204.02311,
appendix B), whatever is computed twice or for nothing besides.

A weight of a matrix is a multiplication and an addition for each token, and in the backward pass the same for the gradient of the layer's
input and, where it is trained, for its own: 4 or 6. The output layer runs on the positions that predict a target. Attention is counted by
pairs: a position and one that it sees, which is itself and what is before it in its sample, within the layer's window.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from peft.utils.other import ModulesToSaveWrapper
from torch import nn

from axolotl_core.models.forward import unwrap

FROZEN, TRAINED = 4, 6


@dataclass(frozen=True)
class TrainingFlops:
    """attention: for each window of a layer, None for all that is before, operations of a pair over all layers that have it."""

    per_token: float
    per_target: float
    attention: Mapping[int | None, float]

    def of(self, lengths: Iterable[int], targets: int) -> float:
        """Forward and backward pass of samples of these many tokens, of which so many are targets."""
        lengths = list(lengths)
        pairs = sum(each * sum(_pairs(length, window) for length in lengths) for window, each in self.attention.items())
        return self.per_token * sum(lengths) + self.per_target * targets + pairs


def training_flops(model: Any) -> TrainingFlops | None:
    """model: as it is trained, with its adapter; its weights may be quantised, or still to be read. None for a kind of layer that nobody
    has counted here."""
    inner = unwrap(model)
    config = inner.config
    try:
        if config.get_text_config() is not config:  # with parts that see or hear
            return None
        share, attention = _share(config), _attention(config)
    except RuntimeError:  # transformers: a width that is not the same in all layers
        return None
    if attention is None or (share < 1) != any(_is_expert(name) for name, _ in model.named_modules()):
        return None
    head = next((name for name, module in model.named_modules() if module is inner.get_output_embeddings()), None)
    per_token = per_target = 0.0
    for name, module in model.named_modules():
        for weights, trained in _matrices(name, module):
            operations = (TRAINED if trained else FROZEN) * weights * (share if _is_expert(name) else 1.0)
            if head is not None and name in (head, f"{head}.base_layer", f"{head}.modules_to_save.default"):
                per_target += operations
            else:
                per_token += operations
    return TrainingFlops(per_token, per_target, attention)


def _matrices(name: str, module: nn.Module) -> Iterator[tuple[int, bool]]:
    """(weights, whether they are trained) of the matrices of a module itself that something is multiplied by."""
    if isinstance(module, nn.Embedding | ModulesToSaveWrapper) or "original_module" in name or "lora_embedding" in name:
        return
    if hasattr(module, "in_features") and hasattr(module, "out_features") and not hasattr(module, "base_layer"):
        weight = getattr(module, "weight", None)  # of a quantised layer in a shape of its own, or none
        yield module.in_features * module.out_features, bool(weight is not None and weight.requires_grad)
        return
    for parameter in module._parameters.values():
        if parameter is not None and parameter.ndim > 1:
            yield getattr(parameter, "ds_numel", parameter.numel()), parameter.requires_grad


def _is_expert(name: str) -> bool:
    return "experts" in name and "shared" not in name


def _share(config: Any) -> float:
    """Of the experts that a token is sent to; 1 without experts."""
    count = next((found for key in EXPERTS if (found := getattr(config, key, None))), None)
    asked = next((found for key in ASKED if (found := getattr(config, key, None))), None)
    return asked / count if count and asked and count > 1 else 1.0


EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
ASKED = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts")
PAIRS = ("full_attention", "sliding_attention", "attention")
NO_PAIRS = ("linear_attention", "mamba", "recurrent", "conv")
"""Kinds of layers: with attention, and without."""


def _attention(config: Any) -> dict[int | None, float] | None:
    """Window → operations; None where a layer is of another kind."""
    heads = getattr(config, "num_attention_heads", None)
    if not heads:
        return {}
    own = getattr(config, "head_dim", None) or config.hidden_size // heads
    key = (getattr(config, "qk_nope_head_dim", 0) + getattr(config, "qk_rope_head_dim", 0)) or own
    operations = 3 * 2 * heads * (key + (getattr(config, "v_head_dim", None) or own))
    window = getattr(config, "sliding_window", None)
    usual = ["sliding_attention" if window else "full_attention"] * config.num_hidden_layers
    found: dict[int | None, float] = {}
    for kind in getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or usual:
        if kind in PAIRS:
            seen = window if kind == "sliding_attention" else None
            found[seen] = found.get(seen, 0.0) + operations
        elif kind not in NO_PAIRS:
            return None
    return found


def _pairs(length: int, window: int | None) -> int:
    if window is None or length <= window:
        return length * (length + 1) // 2
    return window * length - window * (window - 1) // 2
