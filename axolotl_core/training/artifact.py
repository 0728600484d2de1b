"""What was trained, written and read back: an artifact that does not hold what the model in memory does is an error.

    lora, qlora     adapter_config.json, adapter_model.safetensors
    ReLoRA          a whole model: the base with the merged weights, in the base's own number format
    all weights     a whole model, in the base's own number format

Read back are names, shapes, whether something trained is wholly zero, and what the model then says of a row of the
training data: the log-probabilities of its labels are those of the model in memory.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from axolotl_core.adapters import lora
from axolotl_core.adapters.relora import Restarts
from axolotl_core.errors import TrainError
from axolotl_core.models.weights import Weights, dtype_of, rewrite, save_model
from axolotl_core.training import whole
from axolotl_core.training.batches import Inputs
from axolotl_core.training.parallel import Parallel

ROUNDED = 0.05
"""Largest difference of a log-probability, in nats, that rounding the weights to the base's 16 bits may make."""


def write(parallel: Parallel, model: Any, base: Path, out: Path, base_model: str, restarts: Restarts | None, probe: Inputs) -> str:
    """Write to `out` and read it back; the artifact's kind. Every process must call this, rank 0 writes.

    model: unwrapped, with its adapter; probe: a row of the training data. Raises TrainError when the two differ.
    """
    out = Path(parallel.share(str(out)))
    wanted = whole.weights(parallel)
    said = _says(parallel, probe)
    if restarts:
        merged = restarts.weights() | {
            lora.file_name(name).removeprefix("base_model.model."): weight for name, weight in wanted.items() if "lora_" not in name
        }
        if parallel.main:
            rewrite(base, out, lambda name, old: merged.get(name, old))
            _same(Weights(out), merged, dtype_of(base))
        parallel.wait()
        return "full"
    if hasattr(model, "peft_config"):
        if parallel.main:
            lora.save(model, out, base_model, wanted)
        parallel.wait()
        _back(parallel, Weights(out), {name: lora.file_name(name) for name in wanted}, wanted)
        _agree(_says(parallel, probe), said, 0.0 if parallel.kind != "deepspeed" else ROUNDED, out)
        return "lora"
    dtype = dtype_of(base)
    model.config.use_cache = True
    if parallel.main:
        save_model(model, out, state_dict={name: weight.to(dtype) for name, weight in wanted.items()})
        config = json.loads((out / "config.json").read_text(encoding="utf-8")) | {"dtype": str(dtype).removeprefix("torch.")}
        (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    parallel.wait()
    written = {name: weight.to(dtype) for name, weight in wanted.items()}
    _back(parallel, Weights(out), {name: name for name in wanted}, written)
    _agree(_says(parallel, probe), said, 0.0 if dtype == torch.float32 else ROUNDED, out)
    return "full"


def _says(parallel: Parallel, probe: Inputs) -> Tensor:
    parallel.objective.eval()
    loss_N, _ = parallel.objective(probe, each=True)
    result: Tensor = loss_N
    return result


def _back(parallel: Parallel, files: Weights, names: Mapping[str, str], wanted: Mapping[str, Tensor]) -> None:
    """Put the files' weights into the model. Raises TrainError for a shape that differs or a weight that is wholly zero."""
    found = {name: files.read(plain) for name, plain in names.items()}
    for name, weight in found.items():
        if weight.shape != wanted[name].shape:
            raise TrainError(f"{files.folder}: {name} was read back as {tuple(weight.shape)}, wanted {tuple(wanted[name].shape)}")
        if not weight.any() and wanted[name].ndim > 1:
            raise TrainError(
                f"{files.folder}: {name} is wholly zero after training, so nothing reached it; look at learning_rate, "
                "warmup_steps and lora_target_modules"
            )
    whole.load_weights(parallel, found)


def _same(files: Weights, wanted: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    for name, weight in wanted.items():
        if not torch.equal(files.read(name), weight.to(dtype)):
            raise TrainError(f"{files.folder}: {name} was not read back as it was written")


def _agree(now: Tensor, before: Tensor, tolerance: float, out: Path) -> None:
    difference = float((now - before).abs().max()) if len(now) else 0.0
    if not difference <= tolerance:
        raise TrainError(f"{out}: the artifact read back gives other logits than the model in memory, by {difference:.2g} nats of a label")
