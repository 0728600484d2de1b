"""The result of training in memory: base with an adapter beside it, or a model trained whole."""

from pathlib import Path

from axolotl_core.adapters import lora
from axolotl_core.artifacts import manifest
from axolotl_core.models.load import Loaded, load_model
from axolotl_core.params.machine import Machine


def load_trained(adapter: Path, base: Path, machine: Machine, *, vocabulary: int, packed: bool) -> Loaded:
    """adapter: artifacts/adapter; base: a folder with the base's weights; packed: rows will hold several samples."""
    if manifest.read(adapter)["kind"] == "full":
        return load_model(adapter, machine, vocabulary=vocabulary, packed=packed)
    loaded = load_model(base, machine, vocabulary=vocabulary, packed=packed)
    return Loaded(lora.apply(loaded.model, adapter), loaded.how, loaded.attention)
