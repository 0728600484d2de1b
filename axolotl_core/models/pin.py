"""base/: which base model it is, down to the digest of each file.

The weights of a hub model stay in the hub's cache and those of a folder in the folder: they are not stored twice. Everything else
that from_pretrained reads is copied here and read from here. A GGUF file, or a checkpoint without safetensors, is converted once
and its weights lie in base/ itself.

    pin.json  {"kind": "folder", "place": "./my-llama", "files": [{"file": …, "bytes": …, "xxh3": …}]}
"""

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, GgufConfig

from axolotl_core.artifacts import manifest
from axolotl_core.artifacts.stats import StatCache
from axolotl_core.errors import DataError, ModelError, foreign, one_line
from axolotl_core.models import quiet  # noqa: F401
from axolotl_core.models.positions import scale
from axolotl_core.models.weights import INDEX, SINGLE, Weights, complete, indexed_files, load_on_cpu, other_files, save_model, weight_files
from axolotl_core.params.model import Model
from axolotl_core.sources.outside import CONFIG_FILES, WEIGHT_FILES
from axolotl_core.sources.place import Place, only_hub, resolve
from axolotl_core.sources.steady import CHANGED, copy

PIN = "pin.json"
AGAIN = "run `axolotl stage fetch-model` (or `dvc repro -f fetch-model`)"
CAUSAL = re.compile(r"\w+(ForCausalLM|LMHeadModel)")
"""Names of classes of causal language models; another one than the config's is what an old file or a repository's own code calls it."""
WEIGHTS_ONLY = "holds more than weights, which is never unpickled; convert it to safetensors where you trust it"


def pin_model(model: Model, root: Path, out: Path, *, token: bool | None, stats: StatCache, wanted: Mapping[str, str]) -> dict[str, Any]:
    """Fill `out` and return the facts {"parameters", "family", "kind"}. What lies beside the model's files is no fact of it.

    wanted: digests of a local model's files in the key (`outside.model`), which what is read must have.
    Raises ModelError: no network, no such repository, no model in it, not a GGUF file. DataError: a file changed meanwhile.
    """
    place = resolve(model.base_model, root)
    with warnings.catch_warnings(action="ignore"), foreign(lambda message: _unreadable(place, message)):
        return _pin(model, place, out, token, stats, wanted)


def _unreadable(place: Place, message: str) -> ModelError:
    """torch refuses what is not a tensor with some advice on how to run it all the same."""
    refused = "weights_only" in message or "eights only" in message
    return ModelError(f"{place.text}: cannot be read as a model: {WEIGHTS_ONLY if refused else message}")


def _pin(model: Model, place: Place, out: Path, token: bool | None, stats: StatCache, wanted: Mapping[str, str]) -> dict[str, Any]:
    only_hub(place, "model", {"model_revision": model.model_revision})
    if place.kind == "file":
        pin: dict[str, Any] = {"kind": "stored", "place": place.text, "source": wanted["file"]}
        folder = _convert_gguf(place, out)
        _as_wanted(place, [place.local], stats, wanted)
    else:
        folder, commit = (place.local, None) if place.kind == "folder" else _download(model, token)
        if not (folder / "config.json").is_file():
            raise ModelError(f"{place.text}: holds no config.json, so it is not a model that transformers can read")
        if weights := weight_files(folder):
            files = [{"file": f.name, "bytes": f.stat().st_size, "xxh3": stats.digest(f)} for f in weights]
            pin = {"kind": place.kind, "place": place.text, "commit": commit, "files": files}
            for small in sorted({f for pattern in CONFIG_FILES for f in folder.glob(pattern) if f.is_file()}):
                copy(small, out / small.name, wanted.get(small.name) or stats.digest(small))
            _as_wanted(place, weights, stats, wanted)
        else:
            pin = {"kind": "stored", "place": place.text, "commit": commit}
            save_model(load_on_cpu(folder), out)
            _as_wanted(place, [f for pattern in (*CONFIG_FILES, *WEIGHT_FILES) for f in folder.glob(pattern)], stats, wanted)
            folder = out
    config = config_of(out)
    if model.rope_scaling:
        scale(out, model.rope_scaling)
        pin["rope_scaling"] = model.rope_scaling.identity()
    (out / PIN).write_text(json.dumps(pin, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    AutoConfig.from_pretrained(out, trust_remote_code=False)
    if (other := other_class(model, out)) and not CAUSAL.fullmatch(model.model_type):
        raise ModelError(f"model.model_type is {model.model_type}, but {place.text} holds {other}; remove it")
    Weights(folder)  # a name that two of the files have
    return {"parameters": _parameters(folder), "family": config["model_type"], "kind": pin["kind"]}


def _as_wanted(place: Place, files: list[Path], stats: StatCache, wanted: Mapping[str, str]) -> None:
    """Raises DataError where a file on this machine that was read has not the digest that it has in the key."""
    for file in files if place.kind != "hub" else ():
        name = "file" if place.kind == "file" else file.name
        if stats.digest(file) != wanted.get(name):
            raise DataError(f"{file}: {CHANGED}")


def config_of(folder: Path) -> dict[str, Any]:
    """config.json of a model. Raises ModelError where it is not an object that names a model type."""
    with foreign(lambda message: ModelError(f"{folder / 'config.json'}: cannot be read: {message}")):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8-sig"))
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"{folder / 'config.json'}: names no model_type, so it is not a model that transformers can read")
    return config


def other_class(model: Model, base: Path) -> str | None:
    """The class that the config of an artifact base/ names, where model.model_type names another one."""
    classes = config_of(base).get("architectures") or []
    return None if model.model_type in ("AutoModelForCausalLM", *classes) else " ".join(classes) or "no class name"


def left_out(model: Model, root: Path) -> list[str]:
    """Names of safetensors in a local base's folder that are no part of the model."""
    place = resolve(model.base_model, root)
    return other_files(place.local) if place.kind == "folder" else []


@dataclass(frozen=True)
class Pinned:
    """A base model that can be read: `folder` has exactly what was pinned. files: weights outside artifacts/ and their digests."""

    folder: Path
    files: Mapping[Path, str]
    stats: StatCache

    def check(self) -> None:
        """Raises ModelError where weights are not as they were pinned. To be called before they are read, and once they were."""
        for file, digest in self.files.items():
            if not file.is_file() or self.stats.digest(file) != digest:
                state = "has changed" if file.is_file() else "is gone"
                raise ModelError(f"{file}: the base model {state} since it was fetched; {AGAIN}")


def open_pinned(base: Path, root: Path, stats: StatCache, into: Path) -> Pinned:
    """base: artifacts/base; into: a folder to make, with links to what from_pretrained is to read.

    Raises ModelError when the weights have changed since, or cannot be had on this machine.
    """
    pin = json.loads((base / PIN).read_text(encoding="utf-8-sig"))
    if pin["kind"] == "stored":
        _same_source(pin, root, stats)
        return Pinned(base, {}, stats)
    if pin["kind"] == "hub":
        try:
            names = [entry["file"] for entry in pin["files"]]
            folder = Path(snapshot_download(pin["place"], revision=pin["commit"], allow_patterns=names))
        except (OSError, HfHubHTTPError) as error:
            raise ModelError(f"{pin['place']}: the weights are not on this machine and cannot be had: {one_line(error)}") from None
    else:
        folder = resolve(pin["place"], root).local
    pinned = Pinned(into, {folder / entry["file"]: entry["xxh3"] for entry in pin["files"]}, stats)
    pinned.check()
    into.mkdir(parents=True)
    for file in (*pinned.files, *(file for file in base.iterdir() if file.name not in (PIN, manifest.FILE))):
        (into / file.name).symlink_to(file.resolve())
    return pinned


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
        folder = Path(snapshot_download(model.base_model, allow_patterns=list(CONFIG_FILES), **settings))
        settings["revision"] = folder.name  # the branch may move while weights are on their way
        named = indexed_files(folder) if (folder / INDEX).is_file() else []
        snapshot_download(model.base_model, allow_patterns=[SINGLE, *named], **settings)
        if not weight_files(folder):
            snapshot_download(model.base_model, allow_patterns=["*.bin"], **settings)
    except RepositoryNotFoundError:
        raise ModelError(f"{model.base_model}: neither a file or folder here nor a repository of the hub") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        raise ModelError(f"{model.base_model}: the hub cannot be reached ({one_line(error)}); fetch on a machine with a network") from None
    return folder, folder.name


def _convert_gguf(place: Place, out: Path) -> Path:
    with place.local.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError(f"{place.text}: got a file that is not GGUF, wanted a .gguf file, a folder or a hub repository")
    dequantized = GgufConfig(dequantize=True)  # without it save_pretrained refuses the model
    model, report = AutoModelForCausalLM.from_pretrained(
        place.local.parent,
        gguf_file=place.local.name,
        quantization_config=dequantized,
        dtype="float32",
        trust_remote_code=False,
        output_loading_info=True,
    )
    complete(place.text, report)
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
