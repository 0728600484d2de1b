"""ΔW into the base: W ← W + s B A for each layer with an update, shard by shard.

The base is read in the dtype and the shards of its files, each weight is added to in fp32 and rounded once. In memory
are one shard and the adapter. The arithmetic is peft's own (DoRA, rsLoRA, Conv1D too): its layers are made without weights
on the device meta, and each gets the ones it is about, for a moment.
"""

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from axolotl_core.adapters import lora
from axolotl_core.errors import ModelError
from axolotl_core.models.weights import Weights, rewrite
from axolotl_core.progress import progress

PREFIX = "base_model.model."


class LoraMerge:
    """What an adapter does to a base. by_name: weight of the base → layer that changes it; replaced: weights taken whole."""

    def __init__(self, adapter: Path, base: Path) -> None:
        """Raises ModelError when adapter and base do not belong together."""
        self.base, self.updates = Weights(base), Weights(adapter, [adapter / lora.WEIGHTS])
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        self.layers = lora.layers(lora.on_meta(skeleton, adapter))
        self.by_name = {f"{module}.weight": module for module in self.layers}
        learned = {PREFIX + module + "." + lora.file_name(name) for module, layer in self.layers.items() for name, _ in _update(layer)}
        missing = sorted(learned - set(self.updates.files))
        if missing:
            raise ModelError(f"{adapter}: the adapter does not fit the base model: it has no {missing[0]}")
        self.replaced = {name.removeprefix(PREFIX): name for name in self.updates.files if name not in learned}
        if skeleton.config.tie_word_embeddings:  # the output layer has no weight of its own in the base's files
            output = {f"{name}.weight" for name, module in skeleton.named_modules() if module is skeleton.get_output_embeddings()}
            self.replaced = {name: of for name, of in self.replaced.items() if name in self.base.files or name not in output}
        foreign = sorted(name for name in self.replaced if "lora_" in name)
        if foreign:
            raise ModelError(f"{adapter}: the adapter does not fit the base model, which has no layer for {foreign[0]}")

    @property
    def by_shards(self) -> bool:
        """Whether the base's files call their weights as the model does; some old ones do not."""
        return {*self.by_name, *self.replaced} <= set(self.base.files)

    def write(self, out: Path) -> None:
        """The merged model. Raises ModelError for shapes that differ and values that are not finite."""
        rewrite(self.base.folder, out, self.changed)

    @torch.no_grad()
    def changed(self, name: str, weight: Tensor) -> Tensor:
        """This weight of the base as the adapter has it."""
        if name in self.replaced:
            return self._read(self.replaced[name], weight.shape)
        if name not in self.by_name:
            return weight
        layer = self.layers[self.by_name[name]]
        base = layer.get_base_layer()
        empty = base.weight
        if weight.shape != empty.shape:
            raise ModelError(f"{self.updates.folder}: {name} is {tuple(weight.shape)} in the base, the adapter is for {tuple(empty.shape)}")
        base.weight = nn.Parameter(weight.float(), requires_grad=False)
        places = dict(_update(layer))
        for inner, parameter in places.items():
            _set(layer, inner, self._read(PREFIX + self.by_name[name] + "." + lora.file_name(inner), parameter.shape).float())
        try:
            layer.merge(safe_merge=True)
        except ValueError as error:
            raise ModelError(f"{self.updates.folder}: merging {name}: {error}") from None
        layer.merged_adapters.clear()  # a merge that peft thinks was made is one that it skips
        merged: Tensor = base.weight.data
        base.weight = empty
        for inner, parameter in places.items():
            _set(layer, inner, parameter)
        return merged

    def _read(self, name: str, shape: torch.Size) -> Tensor:
        found = self.updates.read(name)
        if found.shape != shape:
            folder = self.updates.folder
            raise ModelError(f"{folder}: the adapter does not fit the base model: {name} is {tuple(found.shape)}, wanted {tuple(shape)}")
        return found


@torch.no_grad()
def merge_in_memory(model: PeftModel) -> Any:
    """The base with the updates in its weights, and `lora_modules_to_save` in their places.

    As shard by shard: one weight at a time in fp32, rounded once to its own dtype. Raises ModelError for values that are not finite.
    """
    layers = lora.layers(model)
    for name, layer in progress(layers.items(), len(layers), "merging", "weights"):
        weight = layer.get_param() if isinstance(layer, ParamWrapper) else layer.get_base_layer().weight
        dtype, weight.data = weight.dtype, weight.data.float()
        try:
            layer.merge(safe_merge=True)
        except ValueError as error:
            raise ModelError(f"merging {name}: {error}") from None
        weight.data = weight.data.to(dtype)
    return model.unload()


def _update(layer: LoraLayer) -> list[tuple[str, nn.Parameter]]:
    return [(name, parameter) for name, parameter in layer.named_parameters() if name.startswith("lora_")]


def _set(layer: Any, name: str, value: Tensor) -> None:
    owner, _, last = name.rpartition(".")
    module = layer.get_submodule(owner)
    parameter = value if isinstance(value, nn.Parameter) else nn.Parameter(value, requires_grad=False)
    if isinstance(module, nn.ParameterDict):
        module[last] = parameter
    else:
        module.register_parameter(last, parameter)
