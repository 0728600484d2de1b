"""The result of training in memory: base with an adapter beside it, or a full fine-tune."""

from dataclasses import replace
from pathlib import Path

from axolotl_core.adapters import lora
from axolotl_core.artifacts import manifest
from axolotl_core.models.load import Loaded, load_model
from axolotl_core.params.machine import Machine
from axolotl_core.params.model import Model


def load_trained(adapter: Path, base: Path, machine: Machine, *, vocabulary: int, packed: bool, quantise: Model) -> Loaded:
    """adapter: artifacts/adapter; base: a folder with the base's weights; packed: rows will hold several samples.

    quantise: the base below an adapter is quantised as it was in training; a full fine-tune is not.
    """
    if manifest.read(adapter)["kind"] == "full":
        return load_model(adapter, machine, vocabulary=vocabulary, packed=packed)
    loaded = load_model(base, machine, vocabulary=vocabulary, packed=packed, quantise=quantise)
    return replace(loaded, model=lora.apply(loaded.model, adapter))
