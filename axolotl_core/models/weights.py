"""Weights of a folder of safetensors, one tensor at a time, and such a folder written anew shard by shard."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from axolotl_core.errors import ModelError

INDEX = "model.safetensors.index.json"
BESIDE = ("config.json", "generation_config.json", INDEX)


class Weights:
    """Names → tensors of all `*.safetensors` of a folder; nothing is read before it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, Path] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, "pt") as opened:
                self.files |= dict.fromkeys(opened.keys(), file)

    def read(self, name: str) -> Tensor:
        """One tensor on the CPU. Raises ModelError when there is none of this name."""
        if name not in self.files:
            raise ModelError(f"{self.folder}: holds no weight called {name}; its files may be of another class than transformers runs")
        with safe_open(self.files[name], "pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
        return tensor


def save_model(model: Any, out: Path, **settings: Any) -> None:
    """save_pretrained, and files that others may read."""
    model.save_pretrained(out, **settings)
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)


def rewrite(base: Path, out: Path, change: Callable[[str, Tensor], Tensor]) -> None:
    """Write the folder `base` to `out` with each tensor changed; shards, names and dtypes stay, one shard is in memory."""
    for file in sorted(base.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            shard = {name: _changed(change, name, opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118
            save_file(shard, out / file.name, metadata=opened.metadata() or {"format": "pt"})
        (out / file.name).chmod(0o644)
    for name in BESIDE:
        if (base / name).is_file():
            shutil.copyfile(base / name, out / name)


def _changed(change: Callable[[str, Tensor], Tensor], name: str, tensor: Tensor) -> Tensor:
    return change(name, tensor).to(tensor.dtype).contiguous()


def dtype_of(folder: Path) -> torch.dtype:
    """Number format of a model's files, as its config.json names it."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    dtype: torch.dtype = getattr(torch, config.get("dtype") or config.get("torch_dtype") or "float32")
    return dtype
