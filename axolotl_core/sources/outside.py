"""Digests of what the fetch stages read from outside artifacts/: the part of their keys that params.yaml does not hold.

Imports nothing heavy: `axolotl stage train` asks all of these before it knows that nothing is to be done.
"""

import os
from pathlib import Path

from axolotl_core.artifacts.key import StatCache
from axolotl_core.errors import ParamsError
from axolotl_core.params.paths import path_in
from axolotl_core.params.whole import Params
from axolotl_core.prompts.resolve import files_read
from axolotl_core.sources.files import files_of, place_of
from axolotl_core.sources.place import Place, resolve

MODEL_FILES = ("*.json", "*.jinja", "*.safetensors", "*.model", "*.txt", "*.bin", "*.gguf")


def dataset(params: Params, name: str, root: Path, stats: StatCache) -> dict[str, str]:
    """Digest of each file of one data set; of a hub data set its revision."""
    data = params.datasets[name]
    place = place_of(data, root)
    if place.kind == "hub":
        return {f"hub:{data.path}": data.revision or "default branch"}
    return {f"file:{i}": stats.digest(path) for i, path in enumerate(files_of(place, data).paths)}


def tokenizer(params: Params, name: None, root: Path, stats: StatCache) -> dict[str, str]:
    """Digest of the files that a tokenizer can come from."""
    return _model(resolve(params.tokenizer.tokenizer_config or params.model.base_model, root), params, stats, weights=False)


def model(params: Params, name: None, root: Path, stats: StatCache) -> dict[str, str]:
    """Digest of each file of a local base model; of a hub model its revision."""
    return _model(resolve(params.model.base_model, root), params, stats, weights=True)


def _model(place: Place, params: Params, stats: StatCache, *, weights: bool) -> dict[str, str]:
    if place.kind == "hub":
        return {f"hub:{place.text}": params.model.model_revision or "default branch"}
    if place.kind == "file":
        return {"file": stats.digest(place.local)}
    files = sorted({p for pattern in MODEL_FILES for p in place.local.glob(pattern)})
    return {p.name: stats.digest(p) for p in files if weights or p.suffix not in (".safetensors", ".bin", ".gguf")}


def adapter(params: Params, name: None, root: Path, stats: StatCache) -> dict[str, str]:
    """Digest of each file of the adapter that train goes on from. Raises ParamsError when it is none."""
    files = adapter_files(params, root)
    for file in files:
        if not file.is_file():
            raise ParamsError(f"adapter.lora_model_dir: {file.parent} is no adapter of peft's, {file.name} is missing")
    return {f"lora_model_dir:{file.name}": stats.digest(file) for file in files}


def adapter_files(params: Params, root: Path) -> list[Path]:
    """Files of lora_model_dir, whether they are there or not."""
    folder = params.adapter.lora_model_dir
    return [path_in(root, folder) / name for name in ("adapter_config.json", "adapter_model.safetensors")] if folder else []


def format(params: Params, name: str | None, root: Path, stats: StatCache) -> dict[str, str]:
    """Digest of each file of the user's that decides what becomes of a row: a module, a Jinja file. name: None for all data sets."""
    files = {file for data in params.datasets if name in (None, data) for file in files_read(params.datasets[data], root)}
    return {f"format:{os.path.relpath(file, root)}": stats.digest(file) for file in sorted(files)}
