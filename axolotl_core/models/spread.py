"""A model that is only run and does not fit one GPU: its layers go on one GPU after the other, and then in the machine's memory, from which
each is copied to the first GPU when it is called (accelerate's dispatch_model)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.utils import get_max_memory

from axolotl_core.errors import MachineError
from axolotl_core.models.forward import unwrap
from axolotl_core.models.load import Loaded, device_of
from axolotl_core.params.machine import Machine

SHARE = 0.9
"""Of a GPU's free memory that weights may take; activations and the cache of keys and values need the rest."""


def needs_spreading(weights: Path, machine: Machine) -> bool:
    """Whether the weights of a folder are more than one GPU has room for. Such a model is to be loaded on the CPU, and then `spread`."""
    device = device_of(machine)
    if device.type != "cuda":
        return False
    return sum(file.stat().st_size for file in weights.glob("*.safetensors")) > SHARE * torch.cuda.mem_get_info(device)[0]


def spread(loaded: Loaded) -> Loaded:
    """The model over all GPUs and the machine's memory. Raises MachineError where those are too small."""
    places = device_map_of(loaded.model)
    if "disk" in places.values():
        raise MachineError(
            "the model fits neither the GPUs nor the machine's memory beside them; take a machine with more, or load_in_4bit"
        )
    return dispatched(loaded, places)


def dispatched(loaded: Loaded, places: dict[str, Any], **settings: Any) -> Loaded:
    """places: GPU, `cpu` or `disk` by the name of a module; settings: of accelerate's dispatch_model."""
    model = dispatch_model(loaded.model, places, **settings)
    told = ", ".join(sorted({f"GPU {place}" if isinstance(place, int) else str(place) for place in places.values()}))
    note = f"the model does not fit one GPU, it is on {told}"
    # the output layer is not called apart from the rest, for its weight may be elsewhere
    return replace(loaded, model=model, spec=replace(loaded.spec, split=False), notes=(*loaded.notes, note))


def device_map_of(model: Any) -> dict[str, Any]:
    """Where each module goes."""
    memory = {place: int(SHARE * size) if isinstance(place, int) else size for place, size in get_max_memory().items()}
    memory["cpu"] += unwrap(model).get_memory_footprint()  # where it lies now
    whole = list(unwrap(model)._no_split_modules or [])
    return dict(infer_auto_device_map(model, memory, no_split_module_classes=whole))
