"""base/: which base model it is, down to the digest of each file.

The weights of a hub model stay in the hub's cache and those of a folder in the folder: they are not stored twice. A
GGUF file, or a checkpoint without safetensors, is converted once and its weights lie in base/ itself.

    pin.json  {"kind": "folder", "place": "./my-llama", "files": [{"file": …, "bytes": …, "xxh3": …}]}
"""

import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, GgufConfig

from axolotl_core.artifacts.key import StatCache
from axolotl_core.artifacts.scratch import FULL
from axolotl_core.errors import DataError, ModelError
from axolotl_core.models import quiet  # noqa: F401
from axolotl_core.models.weights import INDEX, SINGLE, Weights, indexed_files, other_files, save_model, weight_files
from axolotl_core.params.model import Model
from axolotl_core.sources.place import Place, only_hub, resolve

PIN = "pin.json"
AGAIN = "run `axolotl stage fetch-model` (or `dvc repro -f fetch-model`)"
CAUSAL = re.compile(r"\w+(ForCausalLM|LMHeadModel)")
"""Names of classes of causal language models; another one than the config's is what an old file or a repository's own code calls it."""
SMALL = ("*.json", "*.txt", "LICENSE*")


def pin_model(model: Model, root: Path, out: Path, *, token: bool | None, stats: StatCache) -> dict[str, Any]:
    """Fill `out` and return the facts {"parameters", "family", "kind"}. What lies beside the model's files is no fact of it.

    Raises ModelError: no network, no such repository, no model in it, not a GGUF file.
    """
    place = resolve(model.base_model, root)
    try:
        return _pin(model, place, out, token, stats)
    except (OSError, ValueError, SafetensorError, struct.error) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        raise ModelError(f"{place.text}: cannot be read as a model: {_one_line(error)}") from None


def _pin(model: Model, place: Place, out: Path, token: bool | None, stats: StatCache) -> dict[str, Any]:
    only_hub(place, "model", {"model_revision": model.model_revision})
    if place.kind == "file":
        pin: dict[str, Any] = {"kind": "stored", "place": place.text, "source": stats.digest(place.local)}
        folder = _convert_gguf(place, out)
    else:
        folder, commit = (place.local, None) if place.kind == "folder" else _download(model, token)
        if not (folder / "config.json").is_file():
            raise ModelError(f"{place.text}: holds no config.json, so it is no model that transformers can read")
        if weights := weight_files(folder):
            files = [{"file": f.name, "bytes": f.stat().st_size, "xxh3": stats.digest(f)} for f in weights]
            pin = {"kind": place.kind, "place": place.text, "commit": commit, "files": files}
            for small in sorted({f for pattern in SMALL for f in folder.glob(pattern)}):
                shutil.copyfile(small, out / small.name)
        else:
            pin = {"kind": "stored", "place": place.text, "commit": commit}
            save_model(AutoModelForCausalLM.from_pretrained(folder, dtype="auto"), out)
            folder = out
    (out / PIN).write_text(json.dumps(pin, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    config = json.loads((out / "config.json").read_text(encoding="utf-8-sig"))
    if (other := other_class(model, out)) and not CAUSAL.fullmatch(model.model_type):
        raise ModelError(f"model.model_type is {model.model_type}, but {place.text} holds {other}; remove it")
    Weights(folder)  # a name that two of the files have
    return {"parameters": _parameters(folder), "family": config["model_type"], "kind": pin["kind"]}


def other_class(model: Model, base: Path) -> str | None:
    """The class that the config of an artifact base/ names, where model.model_type names another one."""
    classes = json.loads((base / "config.json").read_text(encoding="utf-8-sig")).get("architectures") or []
    return None if model.model_type in ("AutoModelForCausalLM", *classes) else " ".join(classes) or "no class name"


def left_out(model: Model, root: Path) -> list[str]:
    """Names of safetensors in a local base's folder that are no part of the model."""
    place = resolve(model.base_model, root)
    return other_files(place.local) if place.kind == "folder" else []


def weights_folder(base: Path, root: Path, stats: StatCache) -> Path:
    """A folder that from_pretrained reads, holding exactly the files that were pinned.

    Raises ModelError when they have changed since, or cannot be had on this machine.
    """
    pin = json.loads((base / PIN).read_text(encoding="utf-8-sig"))
    if pin["kind"] == "stored":
        _same_source(pin, root, stats)
        return base
    if pin["kind"] == "hub":
        try:
            names = [entry["file"] for entry in pin["files"]]
            folder = Path(snapshot_download(pin["place"], revision=pin["commit"], allow_patterns=[*names, *SMALL]))
        except (OSError, HfHubHTTPError) as error:
            raise ModelError(f"{pin['place']}: the weights are not on this machine and cannot be had: {_one_line(error)}") from None
    else:
        folder = resolve(pin["place"], root).local
    for entry in pin["files"]:
        file = folder / entry["file"]
        if not file.is_file() or stats.digest(file) != entry["xxh3"]:
            state = "has changed" if file.is_file() else "is gone"
            raise ModelError(f"{file}: the base model {state} since it was fetched; {AGAIN}")
    return folder


def _same_source(pin: dict[str, Any], root: Path, stats: StatCache) -> None:
    """A GGUF file that is still on this machine must be the one that was converted; DVC does not watch it."""
    try:
        place = resolve(pin["place"], root)
    except DataError:
        return  # another machine converted it
    if "source" in pin and place.kind == "file" and stats.digest(place.local) != pin["source"]:
        raise ModelError(f"{pin['place']}: the base model has changed since it was fetched; {AGAIN}")


def _download(model: Model, token: bool | None) -> tuple[Path, str]:
    settings: dict[str, Any] = {"revision": model.model_revision, "ignore_patterns": model.base_model_ignore_patterns, "token": token}
    try:
        folder = Path(snapshot_download(model.base_model, allow_patterns=list(SMALL), **settings))
        settings["revision"] = folder.name  # the branch may move while weights are on their way
        named = indexed_files(folder) if (folder / INDEX).is_file() else []
        snapshot_download(model.base_model, allow_patterns=[SINGLE, *named], **settings)
        if not weight_files(folder):
            snapshot_download(model.base_model, allow_patterns=["*.bin"], **settings)
    except RepositoryNotFoundError:
        raise ModelError(f"{model.base_model}: neither a file or folder here nor a repository of the hub") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        raise ModelError(f"{model.base_model}: the hub cannot be reached ({_one_line(error)}); fetch on a machine with a network") from None
    return folder, folder.name


def _convert_gguf(place: Place, out: Path) -> Path:
    with place.local.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(f"{place.text}: got a file that is not GGUF, wanted a .gguf file, a folder or a hub repository")
    dequantized = GgufConfig(dequantize=True)  # without it save_pretrained refuses the model
    model = AutoModelForCausalLM.from_pretrained(
        place.local.parent, gguf_file=place.local.name, quantization_config=dequantized, dtype="float32"
    )
    save_model(model, out)
    return out


def _parameters(folder: Path) -> int:
    total = 0
    for path in weight_files(folder):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118, safe_open is no mapping
                size = 1
                for n in file.get_slice(name).get_shape():
                    size *= n
                total += size
    return total


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
