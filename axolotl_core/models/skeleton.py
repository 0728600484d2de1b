"""A base model without its weights, which are read one at a time: for strategies where no process holds all of them.

Its parameters have a shape and a dtype, but one number as their storage, so that adapters and wrapping policies find a model like any
other. `BaseWeights.fill` gives a module its weights just before it is sharded: rank 0 reads them, the others get them from it.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig

from axolotl_core import world
from axolotl_core.errors import ModelError
from axolotl_core.models.conversion import ParameterWeights
from axolotl_core.models.embeddings import ends, grow_embeddings
from axolotl_core.models.weights import complete

OF_PEFT = ("base_layer", "original_module", "modules_to_save", "default")
"""Parts of a parameter's name that peft adds, some of them more than once."""
ADAPTED = ".base_layer.weight"
"""Of a module with an adapter beside it."""


def skeleton(folder: Path, config: Any, attention: str, dtype: torch.dtype) -> Any:
    """The model of a folder without weights, on the CPU; its buffers are real."""
    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, attn_implementation=attention, dtype=dtype)
    model.tie_weights()
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_dict(json.loads((folder / "generation_config.json").read_text("utf-8-sig")))
    kept = [(re.compile(re.escape(part).replace(r"\*", ".*")), own) for part, own in model._get_dtype_plan(dtype).items()]  # in fp32
    for name, parameter in [*model.named_parameters()]:
        of_part = next((own for part, own in kept if part.search(name)), dtype)
        _put(model, parameter, _placeholder(parameter.shape, of_part))
    for name, buffer in [*model.named_buffers()]:
        if of_buffer := next((own for part, own in kept if part.search(name)), None):
            module, _, last = name.rpartition(".")
            model.get_submodule(module)._buffers[last] = buffer.to(of_buffer)
    return model


class BaseWeights:
    """Weights of a skeleton, by the names of its parameters; only rank 0 reads them."""

    def __init__(self, folder: Path, model: Any, vocabulary: int) -> None:
        """model: a skeleton, whose embeddings grow to `vocabulary` rows. Raises ModelError where the folder lacks a weight."""
        self.names = {name: parameter.dtype for name, parameter in model.named_parameters()}
        self.folder = folder
        self.filled: set[str] = set()
        self.adapt: Callable[[nn.Module], None] | None = None
        """Called with each module beside whose weight an adapter is, once it has that weight."""
        stored = ParameterWeights(folder, self.names)
        complete(str(folder), {"missing_keys": self.names.keys() - stored.names})
        for name, buffer in model.named_buffers():
            if name in stored.names:
                buffer.copy_(stored.read(name))
        self.source = stored if world.rank() == 0 else None
        if vocabulary > model.get_input_embeddings().num_embeddings:
            self._grow(model, vocabulary)

    def _grow(self, model: Any, vocabulary: int) -> None:
        """New rows depend on the old ones, so rank 0 reads these now."""
        if self.source is None:
            model.resize_token_embeddings(vocabulary, mean_resizing=False)
        else:
            for name, parameter in _of_ends(model):
                _put(model, parameter, self.source.read(name).to(parameter.dtype))
            grow_embeddings(model, vocabulary)
            self.source.tensors |= {name: parameter.detach() for name, parameter in _of_ends(model)}
        for _, parameter in _of_ends(model):
            parameter.data = _placeholder(parameter.shape, parameter.dtype)

    @torch.no_grad()
    def fill(self, module: nn.Module, place: str, device: torch.device, *, send: bool = True) -> None:
        """Give a module the weights that it has of the base, on the device, but for those of modules in it that were filled before;
        those of an adapter stay. Every process must call this.

        place: the module's name in the model, with an adapter or without; send: rank 0 sends what it reads, else the others have room
        for it and nothing in it.
        """
        names = {inner: f"{place}.{inner}".removeprefix(".") for inner, _ in module.named_parameters()}
        empty = [inner for inner, name in names.items() if base_name(name) in self.names and name not in self.filled]
        for inner in empty:
            parameter, name = module.get_parameter(inner), base_name(names[inner])
            self.filled.add(names[inner])
            whole = (
                torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                if self.source is None
                else self._read(self.source, name, parameter.shape).to(device, parameter.dtype)
            )
            if send:
                torch.distributed.broadcast(whole, 0)
            parameter.data = whole
        for inner in empty if self.adapt else ():
            if (whole_inner := f".{inner}").endswith(ADAPTED):
                self.adapt(module.get_submodule(whole_inner.removesuffix(ADAPTED).removeprefix(".")))

    def keep(self, names: Iterable[str]) -> None:
        """These parameters have their weights already, from an adapter's files."""
        self.filled.update(names)

    def _read(self, source: ParameterWeights, name: str, shape: torch.Size) -> Tensor:
        """In the dtype that the base is loaded in, whatever its copy is trained in."""
        found = source.read(name)
        if found.shape != shape:
            raise ModelError(f"{self.folder}: {name} has the shape {tuple(found.shape)}, wanted {tuple(shape)} as config.json says")
        return found.to(self.names[name])

    def end(self) -> None:
        """Let go of what was read. Raises ModelError where a weight has found no module."""
        self.source = None
        if left := sorted(self.names.keys() - {base_name(name) for name in self.filled}):
            raise ModelError(f"{self.folder}: no module of the model takes the weight {left[0]}, and {len(left) - 1} more")


def base_name(name: str) -> str:
    """The base's own name of a parameter of a model with an adapter."""
    return ".".join(part for part in name.removeprefix("base_model.model.").split(".") if part not in OF_PEFT)


def _placeholder(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Zeros that take the memory of one."""
    return torch.zeros((), dtype=dtype).expand(shape)


def _of_ends(model: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters of the embeddings and the output layer, tied ones once."""
    own = {parameter for module in ends(model) for parameter in module.parameters()}
    return ((name, parameter) for name, parameter in [*model.named_parameters()] if parameter in own)


def _put(model: nn.Module, old: nn.Parameter, new: Tensor) -> None:
    """Replace a parameter wherever the model has it."""
    parameter = nn.Parameter(new, requires_grad=old.requires_grad)
    for module in model.modules():
        for name in [name for name, own in module._parameters.items() if own is old]:
            module.register_parameter(name, parameter)
