"""ReLoRA (Lialin et al. 2023, arXiv 2307.05695): every so often the update is merged into the base and reinitialised.

    before step k · relora_steps:   W ← W + s B A,   A ← kaiming-uniform, B ← 0,   the optimizer forgets A and B

W is kept in full precision in the run's folder and the layer gets a copy of it, rounded or quantised: so nothing drifts
however often it is merged. The result is a full model.
"""

from pathlib import Path
from typing import Any, Protocol

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from safetensors.torch import save_file
from torch import Tensor, nn

from axolotl_core.adapters.lora import layers
from axolotl_core.artifacts.link import link
from axolotl_core.artifacts.scratch import building, replace
from axolotl_core.errors import ModelError
from axolotl_core.models.conversion import ParameterWeights
from axolotl_core.models.quantize import is_quantised, put_weight

ADAPTER = "default"


class Group(Protocol):
    """What is wanted of the processes that train together."""

    @property
    def main(self) -> bool: ...

    def wait(self) -> None: ...


class ReLoRA:
    """Merges of one run. merged: the file of the weights as merged so far, or None before the first merge."""

    def __init__(self, model: Any, base: Path, every: int, *, on_cpu: bool) -> None:
        """model: with LoRA beside it; base: a folder with the full-precision weights; on_cpu: relora_cpu_offload.

        Raises ModelError when a weight is not in the folder.
        """
        self.every, self.on_cpu = every, on_cpu
        self.merged: Path | None = None
        self.layers: dict[str, LoraLayer] = {f"{name}.weight": layer for name, layer in layers(model).items()}
        if experts := next((name for name, layer in layers(model).items() if isinstance(layer, ParamWrapper)), None):
            raise ModelError(
                f"adapter.relora_steps: {experts} is not a linear layer, and only those are merged; name others in lora_target_modules"
            )
        self.source = ParameterWeights(base, self.layers)
        for name in sorted(self.layers.keys() - self.source.names):
            self.source.read(name)  # raises

    def due(self, step: int) -> bool:
        """Whether to merge before step `step`, from 0."""
        return step > 0 and step % self.every == 0

    def merge(self, run: Path, step: int, group: Group) -> list[nn.Parameter]:
        """Merge and reinitialise; the parameters that the optimizer is to forget."""
        weights: dict[str, Tensor] = {}
        for name, layer in self.layers.items():
            weight = self.weight(name)
            self._put(layer, weight)
            if group.main:
                weights[name] = weight
        file = run / f"merged-{step}.safetensors"
        if group.main:
            with building(file) as folder:
                save_file(weights, folder / file.name)
                replace(folder / file.name, file)
        group.wait()
        self._take(run, file, group)
        return [p for layer in self.layers.values() for n, p in layer.named_parameters() if "lora_" in n and p.requires_grad]

    def restore(self, run: Path, saved: Path, group: Group) -> None:
        """Resume from the merged weights of a checkpoint."""
        file = run / "merged-resumed.safetensors"
        if group.main and not (file.exists() and file.samefile(saved)):
            file.unlink(missing_ok=True)
            link(saved, file)
        group.wait()
        self._take(run, file, group)
        for name, layer in self.layers.items():
            put_weight(layer.get_base_layer(), self.source.read(name))

    @property
    def quantised(self) -> bool:
        """Whether the model in memory cannot have the merged weights as they are."""
        return any(is_quantised(layer.get_base_layer()) for layer in self.layers.values())

    def round(self, dtype: torch.dtype) -> None:
        """Give each layer its merged weight as this dtype has it, and no update beside it."""
        for name, layer in self.layers.items():
            self._put(layer, self.weight(name).to(dtype).float())

    def _put(self, layer: LoraLayer, weight: Tensor) -> None:
        put_weight(layer.get_base_layer(), weight)
        layer.reset_lora_parameters(ADAPTER, True)

    @torch.no_grad()
    def weight(self, name: str) -> Tensor:
        """The weight of one of `layers` with the update of now: fp32, on the CPU."""
        delta = self.layers[name].get_delta_weight(ADAPTER).float()
        weight = self.source.read(name).float()
        return weight + delta.cpu() if self.on_cpu else (weight.to(delta.device) + delta).cpu()

    def _take(self, run: Path, file: Path, group: Group) -> None:
        """From now on the full-precision weights are those of `file`; checkpoints hold links of older ones."""
        self.merged = file
        self.source.files |= dict.fromkeys(self.layers, file)
        self.source.layer = ("", {})
        if group.main:
            for old in run.glob("merged-*.safetensors"):
                if old != file:
                    old.unlink()
