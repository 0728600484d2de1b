"""What was trained, written and read back.

    lora, qlora     adapter_config.json, adapter_model.safetensors
    ReLoRA          a full model: the base with the merged weights, in the dtype of the base
    all weights     a full model, in the dtype of the base

A full model is gathered, rounded and written a weight at a time, in files of 5 GB, and gathered once more to be compared with what
is read back: each weight, by the name that the library gives it on loading, must be equal to the bit, with its shape, finite. What
rounding to the base's 16 bits does to the loss is reported and never refused: it is the price of the dtype, not a mistake.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from axolotl_core.adapters import lora
from axolotl_core.adapters.relora import ReLoRA
from axolotl_core.batches.batch import Inputs
from axolotl_core.distributed.strategy import Strategy
from axolotl_core.errors import TrainError
from axolotl_core.models.conversion import ParameterWeights, rewrite_parameters, write_model
from axolotl_core.models.shape import model_on_meta
from axolotl_core.models.weights import Weights, dtype_of


@dataclass(frozen=True)
class Rounding:
    """Loss in nats per token on a few rows, with the weights as trained and as written."""

    dtype: str
    loss_before: float
    loss_after: float


@dataclass(frozen=True)
class Written:
    """kind: `lora` or `full`. rounding: None where nothing was rounded. notes: sentences for the user."""

    kind: str
    rounding: Rounding | None = None
    notes: Sequence[str] = ()


def write(strategy: Strategy, model: Any, base: Path, out: Path, base_model: str, relora: ReLoRA | None, rows: Sequence[Inputs]) -> Written:
    """Write to `out` and read it back, a weight at a time. Every process must call this, rank 0 writes.

    model: unwrapped, with its adapter; rows: what the loss before and after rounding is taken on.
    Raises TrainError for a weight that is not finite, or is not read back as it was written.
    """
    out = Path(strategy.broadcast(str(out)))
    if relora:
        return _write_relora(strategy, model, relora, base, out, rows)
    if hasattr(model, "peft_config"):
        weights = dict(strategy.full_weights())
        if strategy.main:
            for name, weight in weights.items():
                _check_finite(out, name, weight)
            lora.save(model, out, base_model, weights)
            files = Weights(out, [out / lora.WEIGHTS])
            for name, weight in weights.items():
                _check_same(out, name, files, lora.file_name(name), weight)
        strategy.wait()
        return Written("lora", notes=_untouched(weights))
    return _write_full(strategy, model, base, out, rows)


def _write_full(strategy: Strategy, model: Any, base: Path, out: Path, rows: Sequence[Inputs]) -> Written:
    dtype = dtype_of(base)
    buffers = dict(_persistent_buffers(model))
    shapes = {name: strategy.shape(parameter) for name, parameter in strategy.parameters(frozen=True)}
    layout = {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()}
    layout |= {name: buffer.to("meta") for name, buffer in buffers.items()}

    model.config.use_cache = True
    model.config.dtype = dtype
    weights = ((name, _rounded(out, name, weight, dtype)) for name, weight in strategy.full_weights(frozen=True, patient=True))
    if strategy.main:
        write_model(model, out, layout, chain(buffers.items(), weights))
    deque(weights, maxlen=0)  # the other processes take part in gathering
    exact = True
    written = ParameterWeights(out, shapes) if strategy.main else None
    for name, weight in strategy.full_weights(frozen=True, patient=True):
        assert written, "only rank 0 is given weights"
        exact &= _read_back(out, name, written, weight, dtype)
    strategy.wait()
    return _rounding(strategy, dtype, exact, lambda: strategy.round_weights(dtype), rows)


def _write_relora(strategy: Strategy, model: Any, relora: ReLoRA, base: Path, out: Path, rows: Sequence[Inputs]) -> Written:
    dtype = dtype_of(base)
    others = {name: weight for name, weight in strategy.full_weights() if "lora_" not in name}
    new: dict[str, Callable[[], Tensor]] = {name: partial(relora.weight, name) for name in relora.layers}
    new |= {lora.file_name(name).removeprefix("base_model.model."): partial(others.__getitem__, name) for name in others}
    exact = True
    if strategy.main:
        rewrite_parameters(base, out, lambda name, old: _rounded(out, name, new[name](), dtype) if name in new else old)
        _grow_vocabulary(out, model.config.get_text_config().vocab_size)
        shapes = {name: parameter.shape for name, parameter in model_on_meta(out).named_parameters()}
        written = ParameterWeights(out, shapes)
        for name, made in new.items():
            exact &= _read_back(out, name, written, weight := made(), dtype)
            if weight.shape != shapes.get(name, weight.shape):
                raise TrainError(f"{out}: {name} was read back as {tuple(weight.shape)}, wanted {tuple(shapes[name])} as config.json says")
    strategy.wait()
    if relora.quantised:  # which cannot have the merged weights as they are
        return Written("full")
    return _rounding(strategy, dtype, exact, lambda: relora.round(dtype), rows)


def _grow_vocabulary(out: Path, rows: int) -> None:
    """config.json as of a model whose embeddings have so many rows."""
    config = AutoConfig.from_pretrained(out, trust_remote_code=False)
    if config.get_text_config().vocab_size != rows:
        config.get_text_config().vocab_size = rows
        config.save_pretrained(out)


def _rounding(strategy: Strategy, dtype: torch.dtype, exact: bool, take: Callable[[], None], rows: Sequence[Inputs]) -> Written:
    """exact: whether the dtype has each weight as it is; take: gives the model in memory the rounded ones."""
    if not strategy.any(not exact):
        return Written("full")
    before = _loss(strategy, rows)
    take()
    return Written("full", Rounding(str(dtype).removeprefix("torch."), before, _loss(strategy, rows)))


def _rounded(out: Path, name: str, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """As it is written. Raises TrainError where it is not finite."""
    weight = weight.to(dtype)
    _check_finite(out, name, weight)
    return weight


def _read_back(out: Path, name: str, written: Weights, weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether the dtype has the weight as it is. Raises TrainError where another was written."""
    rounded = weight.to(dtype)
    _check_same(out, name, written, name, rounded)
    return torch.equal(rounded.to(weight.dtype), weight)


def _check_finite(out: Path, name: str, weight: Tensor) -> None:
    if not weight.isfinite().all():
        raise TrainError(
            f"{out}: {name} has values that are not finite in {str(weight.dtype).removeprefix('torch.')}; lower learning_rate, "
            "or take a base of another dtype"
        )


def _check_same(out: Path, name: str, written: Weights, stored_as: str, wanted: Tensor) -> None:
    """Raises TrainError for a weight that is not what was written; it may be read as fp32, which has every 16-bit value."""
    if stored_as not in written.names:
        raise TrainError(f"{out}: {name} was written and is not read back")
    found = written.read(stored_as)
    if found.shape != wanted.shape:
        raise TrainError(f"{out}: {name} was read back as {tuple(found.shape)}, wanted {tuple(wanted.shape)}")
    if not torch.equal(found, wanted.to(found.dtype)):
        raise TrainError(f"{out}: {name} was not read back as it was written")


def _untouched(weights: Mapping[str, Tensor]) -> list[str]:
    """Updates that are still zero: usual for an expert that the data never reached, a mistake where it is all of them."""
    zero = [name for name, weight in weights.items() if weight.ndim > 1 and not weight.any()]
    if not zero:
        return []
    matrices = sum(weight.ndim > 1 for weight in weights.values())
    return [
        f"{len(zero)} of {matrices} trained matrices are still zero, the first is {zero[0]}: no gradient reached them; "
        "if that is not meant, look at learning_rate, warmup_steps and lora_target_modules"
    ]


def _loss(strategy: Strategy, rows: Sequence[Inputs]) -> float:
    strategy.objective.eval()
    token_losses = torch.cat([strategy.objective(inputs, per_token=True)[0].cpu().double() for inputs in rows])
    return float(token_losses.mean())


def _persistent_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a state dict holds besides parameters; asked of the modules, since FSDP's state dict would gather all weights."""
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}".removeprefix("."), buffer.detach().cpu()
