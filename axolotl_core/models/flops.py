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


def training_flops(model: Any) -> TrainingFlops:
    """model: as it is trained, with its adapter; its weights may be quantised, or still to be read."""
    inner = unwrap(model)
    head = next((name for name, module in model.named_modules() if module is inner.get_output_embeddings()), None)
    per_token = per_target = 0.0
    for name, module in model.named_modules():
        for weights, trained in _matrices(name, module):
            operations = (TRAINED if trained else FROZEN) * weights * _share(name, inner.config)
            if head is not None and name in (head, f"{head}.base_layer", f"{head}.modules_to_save.default"):
                per_target += operations
            else:
                per_token += operations
    return TrainingFlops(per_token, per_target, _attention(inner.config))


def _matrices(name: str, module: nn.Module) -> Iterator[tuple[int, bool]]:
    """(weights, whether they are trained) of the matrices of a module itself that something is multiplied by."""
    if isinstance(module, nn.Embedding | ModulesToSaveWrapper) or "original_module" in name:
        return
    if hasattr(module, "in_features") and hasattr(module, "out_features") and not hasattr(module, "base_layer"):
        weight = getattr(module, "weight", None)  # of a quantised layer in a shape of its own, or none
        yield module.in_features * module.out_features, bool(weight is not None and weight.requires_grad)
        return
    for parameter in module._parameters.values():
        if parameter is not None and parameter.ndim > 1:
            yield getattr(parameter, "ds_numel", parameter.numel()), parameter.requires_grad


def _share(name: str, config: Any) -> float:
    """Of the experts that a token is sent to; 1 outside of them."""
    if "experts" not in name or "shared" in name:
        return 1.0
    count = next((found for key in ("num_local_experts", "num_experts", "n_routed_experts") if (found := getattr(config, key, None))), None)
    return config.num_experts_per_tok / count if count and getattr(config, "num_experts_per_tok", None) else 1.0


def _attention(config: Any) -> dict[int | None, float]:
    """Window → operations."""
    heads = getattr(config, "num_attention_heads", None)
    layers = getattr(config, "num_hidden_layers", 0)
    if not heads:
        return {}
    own = getattr(config, "head_dim", None) or config.hidden_size // heads
    key = (getattr(config, "qk_nope_head_dim", 0) + getattr(config, "qk_rope_head_dim", 0)) or own
    operations = 3 * 2 * heads * (key + (getattr(config, "v_head_dim", None) or own))
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"] * layers
    found: dict[int | None, float] = {}
    for kind in kinds:
        if kind in ("full_attention", "sliding_attention"):  # others have no pairs: state spaces, linear attention
            seen = window if kind == "sliding_attention" else None
            found[seen] = found.get(seen, 0.0) + operations
    return found


def _pairs(length: int, window: int | None) -> int:
    if window is None or length <= window:
        return length * (length + 1) // 2
    return window * length - window * (window - 1) // 2
