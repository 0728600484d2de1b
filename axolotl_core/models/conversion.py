"""A model's weights by the names of its parameters, read from files and written to files a decoder layer at a time.

The files of some families have other names than the model in memory: transformers 5 renames those of GPT-NeoX, and stacks the experts of
a mixture. Its own conversions are used here on the weights of one layer after the other, so that no more than a layer and a
shard are in memory, whatever the files are called.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
    revert_weight_conversion,
)
from transformers.modeling_utils import LoadStateDictConfig

from axolotl_core.models.shape import model_on_meta
from axolotl_core.models.weights import CONFIGS, DTYPES, INDEX, Weights, copy_files, dtype_of, read_tensor, rewrite

SHARD = "5GB"
"""The largest file of a model that is written."""
LAYER = re.compile(r"(.*?\.\d+)\.")


def layer_of(name: str) -> str:
    """The decoder layer that a weight belongs to; the weight itself where it is in none."""
    found = LAYER.match(name)
    return found[1] if found else name


class ParameterWeights(Weights):
    """The weights of a folder by the names of the model's parameters, converted as transformers converts them when it loads them."""

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        """names: of the parameters, tied ones once."""
        super().__init__(folder)
        self.converted: dict[str, Tensor] = {}
        """Parameters and buffers whose files have other names: their shapes and dtypes, without data."""
        self.layer: tuple[str, dict[str, Tensor]] = ("", {})
        """The layer that was read last."""
        self.read_as: dict[str, str] = {}
        """Of tied weights the name that is in the files."""
        self.renamed: dict[str, str] = {}
        """Those that have another name in the files and are the same otherwise."""
        if set(names) <= self.files.keys():
            return
        self.stored, self.files = self.files, {}
        self.dtype = dtype_of(folder)
        self.model = model_on_meta(folder).to(self.dtype)
        mapping = get_model_conversion_mapping(self.model)
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        state = self.model.state_dict()
        self.layers: dict[str, list[str]] = {}
        prefix = self.model.base_model_prefix
        for name in self.stored:
            renamed, pattern = rename_source_key(name, renamings, converters, prefix, state)
            if renamed not in state and name in state:  # as transformers does
                renamed, pattern = rename_source_key(name, [], [], prefix, state)
            if pattern is None:
                self.renamed[renamed] = name
            self.layers.setdefault(layer_of(renamed), []).append(name)
        self.converted = self._convert(dict(self._headers()))
        names_of: dict[int, list[str]] = {}
        for name, tensor in _tensors(self.model):
            names_of.setdefault(id(tensor), []).append(name)
        for tied in names_of.values():
            if there := [name for name in tied if name in self.converted]:
                self.converted |= dict.fromkeys(tied, self.converted[there[0]])
                self.read_as |= dict.fromkeys(tied, there[0])

    @property
    def names(self) -> set[str]:
        return super().names | self.converted.keys()

    def read(self, name: str) -> Tensor:
        if name in self.tensors or name in self.files or name not in self.converted:
            return super().read(name)
        name = self.read_as[name]
        if name in self.renamed:
            return read_tensor(self.stored[self.renamed[name]], self.renamed[name]).to(self.converted[name].dtype)
        layer = layer_of(name)
        if self.layer[0] != layer:
            self.layer = ("", {})  # before another takes its place
            self.layer = (layer, self._convert({stored: read_tensor(self.stored[stored], stored) for stored in self.layers[layer]}))
        return self.layer[1][name]

    def _headers(self) -> Iterator[tuple[str, Tensor]]:
        """Shapes and dtypes of the tensors of the files."""
        for file in sorted(set(self.stored.values())):
            with safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    header = opened.get_slice(name)
                    yield name, torch.empty(header.get_shape(), dtype=DTYPES.get(header.get_dtype(), torch.uint8), device="meta")

    def _convert(self, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Some weights of the files as the model has them."""
        empty = dict(_tensors(self.model))
        settings = LoadStateDictConfig(
            device_map={"": next(iter(stored.values())).device},
            dtype=self.dtype,
            dtype_plan=self.model._get_dtype_plan(self.dtype),
            weight_mapping=get_model_conversion_mapping(self.model),
        )
        convert_and_load_state_dict_in_model(self.model, dict(stored), settings)
        found = {name: tensor.detach() for name, tensor in _tensors(self.model) if tensor is not empty[name]}
        for name in found:
            owner, _, last = name.rpartition(".")
            setattr(self.model.get_submodule(owner), last, empty[name])
        return found


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def write_model(model: Any, out: Path, layout: Mapping[str, Tensor], weights: Iterable[tuple[str, Tensor]]) -> None:
    """What save_pretrained writes, but the weights come one by one: as in `write_weights`."""
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(out)
    if model.can_generate():
        model.generation_config.save_pretrained(out)
    write_weights(model, out, layout, weights)


def write_weights(model: Any, out: Path, layout: Mapping[str, Tensor], weights: Iterable[tuple[str, Tensor]]) -> None:
    """The safetensors files that save_pretrained writes, and their index where there are several, without all weights in memory.

    model: what class and config they are of. layout: parameter or buffer → its shape and dtype (a tensor of the device meta), tied ones
    once; weights: the same with their data, one by one.
    """
    groups: dict[str, list[str]] = {}
    for name in layout:
        groups.setdefault(layer_of(name), []).append(name)
    whole = revert_weight_conversion(model, dict(layout))
    apart = {key: t for names in groups.values() for key, t in revert_weight_conversion(model, {n: layout[n] for n in names}).items()}
    if {key: t.shape for key, t in apart.items()} != {key: t.shape for key, t in whole.items()}:
        groups, apart = {"": list(layout)}, whole  # weights of several layers are converted together
    group_of = {name: group for group, names in groups.items() for name in names}
    plan = split_torch_state_dict_into_shards(apart, filename_pattern="model{suffix}.safetensors", max_shard_size=SHARD)
    waiting: dict[str, dict[str, Tensor]] = {}
    shards: dict[str, dict[str, Tensor]] = {}
    for name, weight in weights:
        group = waiting.setdefault(group_of[name], {})
        group[name] = weight
        if len(group) < len(groups[group_of[name]]):
            continue
        for key, tensor in revert_weight_conversion(model, waiting.pop(group_of[name])).items():
            file = plan.tensor_to_filename[key]
            shard = shards.setdefault(file, {})
            shard[key] = tensor.contiguous()
            if len(shard) == len(plan.filename_to_tensors[file]):
                save_file(shards.pop(file), out / file, metadata={"format": "pt"})
                (out / file).chmod(0o644)
        del group
    assert not waiting, "each layer is complete"
    assert not shards, "and so is each file"
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (out / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def rewrite_parameters(base: Path, out: Path, change: Callable[[str, Tensor], Tensor]) -> None:
    """As `rewrite`, but change gets the names of the model's parameters, and weights as the model has them."""
    model = model_on_meta(base)
    weights = ParameterWeights(base, (name for name, _ in model.named_parameters()))
    if not weights.converted:
        rewrite(base, out, change)
        return
    names = [name for name, _ in (*model.named_parameters(), *model.named_buffers()) if name in weights.converted]
    order = {layer: place for place, layer in enumerate(dict.fromkeys(map(layer_of, names)))}
    layout = {name: weights.converted[name] for name in sorted(names, key=lambda name: order[layer_of(name)])}
    write_weights(model, out, layout, ((name, change(name, weights.read(name)).to(like.dtype)) for name, like in layout.items()))
    copy_files(base, out, CONFIGS)
