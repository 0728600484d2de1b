"""What was trained, written and read back.

    lora, qlora     adapter_config.json, adapter_model.safetensors
    ReLoRA          a full model: the base with the merged weights, in the dtype of the base
    all weights     a full model, in the dtype of the base

Read back is what was written: each weight, by the name that the library gives it on loading, must be equal to the bit, with its
shape, finite, and none may be lost between shards. What rounding to the base's 16 bits does to the loss is reported and never
refused: it is the price of the dtype, not a mistake.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from axolotl_core.adapters import lora
from axolotl_core.adapters.relora import ReLoRA
from axolotl_core.batches.batch import Inputs
from axolotl_core.distributed.strategy import Strategy
from axolotl_core.errors import TrainError
from axolotl_core.models.weights import Weights, dtype_of, load_on_cpu, replace_parameters, save_model


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
    """Write to `out` and read it back. Every process must call this, rank 0 writes.

    model: unwrapped, with its adapter; rows: what the loss before and after rounding is taken on.
    Raises TrainError for a weight that is not finite, or is not read back as it was written.
    """
    out = Path(strategy.broadcast(str(out)))
    weights = strategy.full_weights(frozen=not hasattr(model, "peft_config"))  # of unfrozen_parameters, the rest of the model too
    if relora:
        merged = relora.weights() | {
            lora.file_name(name).removeprefix("base_model.model."): weight for name, weight in weights.items() if "lora_" not in name
        }
        dtype = dtype_of(base)
        take = None if relora.quantised else lambda: relora.take({name: weight.to(dtype).float() for name, weight in merged.items()})
        return _write_full(strategy, base, out, merged, lambda: replace_parameters(base, out, merged), take, rows)
    if hasattr(model, "peft_config"):
        if strategy.main:
            _finite(out, weights)
            lora.save(model, out, base_model, weights)
            files = Weights(out, [out / lora.WEIGHTS])
            _same(out, {name: files.read(lora.file_name(name)) for name in weights}, weights)
        strategy.wait()
        return Written("lora", notes=_untouched(weights))
    model.config.use_cache = True
    buffers = dict(_persistent_buffers(model))

    def save() -> None:
        dtype = dtype_of(base)
        save_model(model, out, state_dict={name: weight.to(dtype) for name, weight in weights.items()} | buffers)
        config = json.loads((out / "config.json").read_text(encoding="utf-8")) | {"dtype": str(dtype).removeprefix("torch.")}
        (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    return _write_full(strategy, base, out, weights, save, lambda: strategy.round_weights(dtype_of(base)), rows)


def _write_full(
    strategy: Strategy,
    base: Path,
    out: Path,
    weights: Mapping[str, Tensor],
    save: Callable[[], None],
    take: Callable[[], None] | None,
    rows: Sequence[Inputs],
) -> Written:
    """weights: by the model's names; save: writes them; take: gives the model in memory the rounded ones, if it can have them."""
    dtype = dtype_of(base)
    rounded = {name: weight.to(dtype) for name, weight in weights.items()}
    if strategy.main:
        _finite(out, rounded)
        save()
        _same(out, dict(load_on_cpu(out).named_parameters(remove_duplicate=False)), rounded)
    strategy.wait()
    if take is None or not strategy.any(any(not torch.equal(rounded[name].to(w.dtype), w) for name, w in weights.items())):
        return Written("full")
    before = _loss(strategy, rows)
    take()
    return Written("full", Rounding(str(dtype).removeprefix("torch."), before, _loss(strategy, rows)))


def _finite(out: Path, weights: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise TrainError(
                f"{out}: {name} has values that are not finite in {str(weight.dtype).removeprefix('torch.')}; lower learning_rate, "
                "or take a base of another dtype"
            )


def _same(out: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raises TrainError for a weight that is not what was written; found may keep some in fp32, which holds every 16-bit value."""
    for name, weight in wanted.items():
        if name not in found:
            raise TrainError(f"{out}: {name} was written and is not read back")
        if found[name].shape != weight.shape:
            raise TrainError(f"{out}: {name} was read back as {tuple(found[name].shape)}, wanted {tuple(weight.shape)}")
        if not torch.equal(found[name].detach(), weight.to(found[name].dtype)):
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
