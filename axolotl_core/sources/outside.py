"""What stages read from outside artifacts/: the part of their keys that params.yaml does not hold.

Each function gives, by a name in the key, the file that is read, or the text that stands for what is on the hub. Imports nothing
heavy: `axolotl stage train` asks all of these before it knows that nothing is to be done.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from axolotl_core.artifacts.stats import StatCache
from axolotl_core.errors import DataError, ParamsError
from axolotl_core.params.params import Params
from axolotl_core.params.paths import path_in
from axolotl_core.prompts.resolve import copied_as, files_read
from axolotl_core.sources.files import files_of, place_of
from axolotl_core.sources.place import Place, name_of, resolve
from axolotl_core.sources.steady import copy

Outside = Mapping[str, Path | str]
TOKENIZER_FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "additional_chat_templates/*.jinja")
CONFIG_FILES = ("*.json", "*.txt", "LICENSE*")
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.gguf")


def digests(found: Outside, stats: StatCache) -> dict[str, str]:
    """Name → digest of the file, or the text as it is. Raises DataError for a file that cannot be read."""
    try:
        return {name: stats.digest(what) if isinstance(what, Path) else what for name, what in found.items()}
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None


def dataset(params: Params, name: str, root: Path) -> Outside:
    """Each file of one dataset, by its order and its name, which can say how it is read; of a hub dataset its revision."""
    data = params.datasets[name]
    place = place_of(data, root)
    if place.kind == "hub":
        return {f"hub:{data.path}": data.revision or "default branch"}
    return {name_in_key(i, path, place): path for i, path in enumerate(files_of(place, data).paths)}


def name_in_key(i: int, path: Path, place: Place) -> str:
    """Of file number i of a dataset: `file:0:a/b.jsonl`."""
    return f"file:{i}:{name_of(path.name if place.kind == 'file' else os.path.relpath(path, place.local))}"


def tokenizer(params: Params, name: None, root: Path) -> Outside:
    """The files that a tokenizer can come from."""
    return _model(resolve(params.tokenizer.tokenizer_config or params.model.base_model, root), params, TOKENIZER_FILES)


def model(params: Params, name: None, root: Path) -> Outside:
    """Each file of a local base model that can be read; of a hub model its revision."""
    place = resolve(params.model.base_model, root)
    weights = WEIGHT_FILES
    if place.kind == "folder":  # as models/weights.py decides it
        single, indexed = (place.local / "model.safetensors").is_file(), any(place.local.glob("*.safetensors"))
        weights = ("model.safetensors",) if single else ("*.safetensors",) if indexed else WEIGHT_FILES
    return _model(place, params, (*CONFIG_FILES, *weights))


def _model(place: Place, params: Params, patterns: tuple[str, ...]) -> Outside:
    if place.kind == "hub":
        return {f"hub:{place.text}": params.model.model_revision or "default branch"}
    if place.kind == "file":
        return {"file": place.local}
    files = sorted({file for pattern in patterns for file in place.local.glob(pattern) if file.is_file()})
    return {file.relative_to(place.local).as_posix(): file for file in files}


def adapter(params: Params, name: None, root: Path) -> Outside:
    """Each file of the adapter that train resumes from. Raises ParamsError when it is none."""
    files = adapter_files(params, root)
    for file in files:
        if not file.is_file():
            raise ParamsError(f"adapter.lora_model_dir: {file.parent} is not an adapter of peft's, {file.name} is missing")
    return {f"lora_model_dir:{file.name}": file for file in files}


def adapter_files(params: Params, root: Path) -> list[Path]:
    """Files of lora_model_dir, whether they are there or not."""
    folder = params.adapter.lora_model_dir
    return [path_in(root, folder) / name for name in ("adapter_config.json", "adapter_model.safetensors")] if folder else []


def format(params: Params, name: str | None, root: Path) -> Outside:
    """Each file of the user's that decides what becomes of a row: a module, a Jinja file. name: None for all datasets."""
    files = {file for data in params.datasets if name in (None, data) for file in files_read(params.datasets[data], root)}
    return {f"format:{os.path.relpath(file, root)}": file for file in sorted(files)}


def copy_to(found: Outside, digests: Mapping[str, str], root: Path, into: Path) -> None:
    """Copy files into a folder while they are digested: those of formats as `relocated` finds them, others by their names.

    Raises DataError where one has not its digest any more.
    """
    into.mkdir(parents=True)
    for name, what in found.items():
        if isinstance(what, Path):
            kind, _, rest = name.partition(":")
            copy(what, into / (copied_as(what, root) if kind == "format" else rest or name), digests[name])


FUNCTIONS: Mapping[str, Callable[..., Outside]] = {
    "dataset": dataset,
    "tokenizer": tokenizer,
    "model": model,
    "adapter": adapter,
    "format": format,
}
"""By the name that the stage table uses."""
