"""The result of training in memory: base with an adapter beside it, or a full fine-tune."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from axolotl_core.adapters import lora
from axolotl_core.artifacts import manifest
from axolotl_core.models.load import Loaded, load_model
from axolotl_core.models.quantize import quantised
from axolotl_core.models.spread import needs_spreading, spread
from axolotl_core.params.machine import Machine
from axolotl_core.params.model import Model


def base_dtype(adapter: Path) -> torch.dtype | None:
    """What training made the products of a quantised base in; None for the dtype of the base's files."""
    found = manifest.read(adapter).get("base_dtype")
    return getattr(torch, found) if found else None


def load_trained(adapter: Path, base: Path, machine: Machine, *, vocabulary: int, packed: bool, quantise: Model) -> Loaded:
    """adapter: artifacts/adapter; base: a folder with the base's weights; packed: rows will hold several samples.

    quantise: the base below an adapter is quantised as it was in training, with products in the same dtype; a full fine-tune is not.
    """
    if manifest.read(adapter)["kind"] == "full":
        return load_to_run(adapter, machine, vocabulary=vocabulary, packed=packed)
    settings: dict[str, Any] = {"quantise": quantise, "dtype": base_dtype(adapter), "adapter": adapter}
    return load_to_run(base, machine, vocabulary=vocabulary, packed=packed, **settings)


def load_to_run(weights: Path, machine: Machine, *, quantise: Model | None = None, adapter: Path | None = None, **settings: Any) -> Loaded:
    """A model that is only run, which may not fit one GPU. adapter: a folder with an update to lay beside it; settings: of load_model."""
    small = quantise is not None and quantised(quantise) is not None  # its layers are quantised where they go
    spreads = not small and needs_spreading(weights, machine)
    on = torch.device("cpu") if spreads else None
    loaded = load_model(weights, machine, quantise=quantise, spread=small, on=on, **settings)
    if adapter:
        loaded = replace(loaded, model=lora.apply(loaded.model, adapter))
    return spread(loaded) if spreads else loaded
