"""Weights of a folder of safetensors, one tensor at a time, and such a folder written anew shard by shard.

Which files are the model is decided as transformers decides it: `model.safetensors`, else what
`model.safetensors.index.json` names. Others beside them (`consolidated.safetensors` of Mistral's repositories) are no part of it.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.integrations import deepspeed

from axolotl_core.errors import ModelError
from axolotl_core.progress import progress

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIGS = ("config.json", "generation_config.json")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Names of dtypes in the header of a safetensors file."""


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that are the model, sorted; none where the folder has no safetensors at all.

    Raises ModelError: an index that is not JSON or names a file that is not there, files that nothing names.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        files = [folder / name for name in indexed_files(folder)]
        if missing := [file.name for file in files if not file.is_file()]:
            raise ModelError(f"{folder / INDEX}: names {missing[0]}, which is not in the folder; fetch the missing file")
        return files
    stray = sorted(file.name for file in folder.glob("*.safetensors"))
    if stray:
        raise ModelError(
            f"{folder}: holds {', '.join(stray)}, but neither {SINGLE} nor {INDEX}, which say what the model is; "
            f"rename a single file to {SINGLE}, or add the index of several"
        )
    return []


def indexed_files(folder: Path) -> list[str]:
    """Names of the files that the index of a folder names, sorted. Raises ModelError for an index that is none."""
    try:
        names = {str(file) for file in json.loads((folder / INDEX).read_text(encoding="utf-8-sig"))["weight_map"].values()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(
            f"{folder / INDEX}: is not an index of weights, wanted JSON with a mapping weight_map; fetch the file again"
        ) from None
    if outside := sorted(name for name in names if Path(name).name != name):
        raise ModelError(f"{folder / INDEX}: names {outside[0]}, which is outside the folder; fetch the file again")
    return sorted(names)


def other_files(folder: Path) -> list[str]:
    """Names of safetensors files beside the model's own, which are left out."""
    own = set(weight_files(folder))
    return sorted(file.name for file in folder.glob("*.safetensors") if file not in own)


class Weights:
    """Names → tensors of safetensors files; nothing is read before it is asked for.

    files: name → file it is read from. tensors: name → tensor, which comes before the files.
    """

    def __init__(self, folder: Path, files: Sequence[Path] | None = None) -> None:
        """files: unset, those of the model in the folder. Raises ModelError for a name that is in two of them."""
        self.folder = folder
        self.files: dict[str, Path] = {}
        self.tensors: dict[str, Tensor] = {}
        for file in weight_files(folder) if files is None else files:
            try:
                with safe_open(file, "pt") as opened:
                    names = set(opened.keys())
            except (SafetensorError, OSError) as error:
                raise ModelError(f"{file}: cannot be read as safetensors: {error}") from None
            if twice := sorted(names & self.files.keys()):
                raise ModelError(
                    f"{folder}: {twice[0]} is in {self.files[twice[0]].name} and in {file.name}, so it is not clear which is the model's; "
                    "remove one of the files"
                )
            self.files |= dict.fromkeys(names, file)

    @property
    def names(self) -> set[str]:
        """What can be read."""
        return {*self.tensors, *self.files}

    def read(self, name: str) -> Tensor:
        """One tensor on the CPU. Raises ModelError when there is none of this name."""
        if name in self.tensors:
            return self.tensors[name]
        if name not in self.files:
            raise ModelError(f"{self.folder}: holds no weight called {name}; its files may be of another class than transformers runs")
        return read_tensor(self.files[name], name)


def read_tensor(file: Path, name: str) -> Tensor:
    """One tensor of a safetensors file, on the CPU."""
    with safe_open(file, "pt") as opened:
        tensor: Tensor = opened.get_tensor(name)
    return tensor


def load_on_cpu(folder: Path, dtype: torch.dtype | str = "auto") -> Any:
    """The model of a folder, in its own dtype. Raises ModelError where a weight of the model is not in the files."""
    with _without_zero3():
        model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True, trust_remote_code=False)
    complete(str(folder), report)
    return model


def complete(place: str, report: Mapping[str, Any]) -> None:
    """Raises ModelError where a weight of the model was not in its files: transformers draws it at random.

    report: from_pretrained's, with output_loading_info.
    """
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{place}: lacks the weight {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else ""))


@contextmanager
def _without_zero3() -> Iterator[None]:
    """In this block transformers loads a model in this process alone; under ZeRO 3 every process would have to take part."""
    reference = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = reference


def save_model(model: Any, out: Path, **settings: Any) -> None:
    """save_pretrained, and files that others may read."""
    model.save_pretrained(out, **settings)
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)


def rewrite(base: Path, out: Path, change: Callable[[str, Tensor], Tensor]) -> None:
    """Write the folder `base` to `out` with tensors changed; shards, names and dtypes stay, one shard is in memory."""
    dtype = dtype_of(base)
    for file in weight_files(base):
        with safe_open(file, "pt") as opened:
            names = progress(opened.keys(), len(opened.keys()), f"merging {file.name}", "weights")
            shard = {name: _changed(change, name, opened.get_tensor(name), dtype) for name in names}
            save_file(shard, out / file.name, metadata=opened.metadata() or {"format": "pt"})
        (out / file.name).chmod(0o644)
    copy_files(base, out, (*CONFIGS, INDEX))


def copy_files(base: Path, out: Path, names: Iterable[str]) -> None:
    """Those of the names that the folder has."""
    for name in names:
        if (base / name).is_file():
            shutil.copyfile(base / name, out / name)


def _changed(change: Callable[[str, Tensor], Tensor], name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """dtype: what transformers loads the model in, which the files may be narrower than."""
    new = change(name, tensor)
    return (tensor if new is tensor else new.to(dtype)).contiguous()


def dtype_of(folder: Path) -> torch.dtype:
    """The dtype that transformers loads a folder in with dtype="auto": that of config.json, else of the first float weight."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8-sig"))
    if named := config.get("dtype") or config.get("torch_dtype"):
        dtype: torch.dtype = getattr(torch, named)
        return dtype
    for file in weight_files(folder):
        with safe_open(file, "pt") as opened:
            kinds = [opened.get_slice(name).get_dtype() for name in opened.keys()]  # noqa: SIM118
        if found := next((DTYPES[kind] for kind in kinds if kind in DTYPES), None):
            return found
    return torch.float32
