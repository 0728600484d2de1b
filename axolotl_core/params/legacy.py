"""A flat Axolotl YAML (as of 2023) → the sections of params.yaml.

An option that is named here nowhere keeps its name and goes to the section that declares it. No option of
Axolotl is silently ignored: it is kept, renamed, or gone with the reason.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from axolotl_core.errors import ParamsError
from axolotl_core.params.document import Document, Where
from axolotl_core.params.whole import SECTIONS, section_of

RENAMED = {
    "push_to_hub_model_id": "hub_model_id",
    "load_4bit": "load_in_4bit",
    "use_auth_token": "hf_use_auth_token",
    "eval_strategy": "evaluation_strategy",
}
GONE = {
    "is_falcon_derived_model": "the family is read from the model's own config",
    "is_llama_derived_model": "the family is read from the model's own config",
    "is_mistral_derived_model": "the family is read from the model's own config",
    "sample_packing_eff_est": "packing is planned exactly before the first step",
    "total_num_tokens": "tokens are counted in artifacts/packed/manifest.json",
    "total_supervised_tokens": "trained tokens are counted in artifacts/packed/manifest.json",
    "dataset_prepared_path": "prepared data lies in artifacts/ under content keys",
    "push_dataset_to_hub": "prepared data is shared with `dvc push`",
    "output_dir": "results lie in artifacts/adapter, artifacts/merged and artifacts/export",
    "lora_out_dir": "the adapter lies in artifacts/adapter",
    "local_rank": "torchrun gives the rank",
    "torchdistx_path": "torchdistx is no longer maintained; use adamw_torch",
    "strict": "an unknown option is always an error",
    "device_map": "the machine section says where the model runs",
}
DEAD_OPTIMIZERS = {
    "adamw_hf": ("adamw_torch", "transformers has removed its own AdamW, which made the same update"),
    "adamw_torch_xla": ("adamw_torch", "this is for TPUs"),
    "adamw_apex_fused": ("adamw_torch_fused", "torch's own fused AdamW has replaced apex's"),
    "adamw_anyprecision": ("adamw_torch", "torchdistx is no longer maintained"),
}
"""Name → (the nearest living optimizer, why)."""
PRETRAINING = "pretraining_dataset"
PRETRAINING_NUMBERS = {"max_steps": 0, "micro_batch_size": 1, "gradient_accumulation_steps": 1, "sequence_len": 2048}
BYTES_A_TOKEN = 8
NOTHING: dict[str, Any] = {"fsdp": None, "fsdp_config": {}, "special_tokens": {}, "tokens": []}
"""What an empty `fsdp:` and the like mean here."""


@dataclass(frozen=True)
class Fate:
    """What became of one option of the old file: `kept`, `renamed` or `gone`, and where to or why."""

    option: str
    fate: str
    told: str


def is_flat(values: dict[str, Any]) -> bool:
    """A sectioned file has at least one section besides `datasets` that is a mapping (or empty)."""
    sections = [k for k, v in values.items() if k in SECTIONS and k != "datasets" and isinstance(v, dict)]
    return not sections and any(
        key in section_of() or key in GONE or key in RENAMED or key == "datasets" for key in values if not isinstance(values[key], dict)
    )


def sectioned(document: Document) -> Document:
    """The same document with each option in its section and lines kept; unknown names stay where they are."""
    out = Document(document.source, {})
    for option, value in document.values.items():
        fate = fate_of(option)
        if option == "datasets":
            _datasets(document, out)
        elif option == PRETRAINING:
            _pretraining(document, out)
        elif fate.fate == "gone":
            continue
        elif fate.told in section_of():
            if value is None and fate.told != "base_model":
                continue  # Axolotl's examples leave unset options empty
            if option == "base_model_config" and value == document.values.get("base_model"):
                continue
            if value == "" and option in ("adapter", *(o for o in section_of() if o.startswith("wandb_"))):
                continue
            home = (section_of()[fate.told], fate.told)
            out.set(home, _modern(fate.told, value))
            _copy_lines(document, (option,), out, home)
        else:
            out.values[option] = value
            _copy_lines(document, (option,), out, (option,))
    return out


def fate_of(option: str) -> Fate:
    """kept (told: its name), renamed (told: the new name), gone (told: why), or unknown."""
    if option in GONE:
        return Fate(option, "gone", GONE[option])
    if option in RENAMED:
        return Fate(option, "renamed", RENAMED[option])
    if option == PRETRAINING:
        return Fate(option, "renamed", "datasets")
    if option in section_of() or option == "datasets":
        return Fate(option, "kept", option)
    return Fate(option, "unknown", "")


def rename_in_datasets(document: Document) -> Iterator[tuple[Where, str]]:
    """`split` of today's Axolotl and of the datasets library is `train_on_split` here, in place; yields what is set twice."""
    found = document.values.get("datasets")
    datasets: dict[str, Any] = found if isinstance(found, dict) else {}
    for name, data in datasets.items():
        if isinstance(data, dict) and "split" in data:
            where = ("datasets", name, "split")
            if "train_on_split" in data:
                yield where, "split and train_on_split are both set, and mean the same; remove one"
            datasets[name] = {("train_on_split" if key == "split" else key): value for key, value in data.items()}
            if where in document.lines:
                document.lines["datasets", name, "train_on_split"] = document.lines[where]


def revive(document: Document) -> list[str]:
    """Replace the name of an optimizer whose library is gone, in place; a sentence about it, if so."""
    where: Where = ("training", "optimizer")
    training = document.values.get("training")
    name = training.get("optimizer") if isinstance(training, dict) else None
    if not isinstance(name, str) or name not in DEAD_OPTIMIZERS:
        return []
    living, why = DEAD_OPTIMIZERS[name]
    document.values["training"] = {**training, "optimizer": living}  # type: ignore[dict-item]
    return [f"{document.place(where)}: optimizer {name} is taken as {living}: {why}"]


def _modern(option: str, value: Any) -> Any:
    if option in NOTHING and not value:
        return NOTHING[option]
    return value


def _datasets(document: Document, out: Document) -> None:
    entries = document.values["datasets"]
    out.lines[("datasets",)] = document.lines.get(("datasets",), 0)
    if not isinstance(entries, list):
        out.values["datasets"] = entries
        _copy_lines(document, ("datasets",), out, ("datasets",))
        return
    named: dict[str, Any] = {}
    for i, entry in enumerate(entries):
        configurations = entry.get("name") if isinstance(entry, dict) else None
        for configuration in configurations if isinstance(configurations, list) else [configurations]:
            name = _free_name(entry, configuration if isinstance(configurations, list) else None, named)
            named[name] = {**entry, "name": configuration} if isinstance(configurations, list) else entry
            _copy_lines(document, ("datasets", i), out, ("datasets", name))
    out.values["datasets"] = named


def _pretraining(document: Document, out: Document) -> None:
    """`pretraining_dataset: repo` → a streamed data set of plain text, long enough for max_steps.

    Text has fewer than BYTES_A_TOKEN bytes a token, so what is fetched suffices for one pass of max_steps steps.
    Raises ParamsError beside `datasets`, and without max_steps.
    """
    given, values = document.values[PRETRAINING], document.values
    if given is None:
        return
    place = document.place((PRETRAINING,))
    if values.get("datasets"):
        raise ParamsError(f"{place}: {PRETRAINING} and datasets are both set; remove one")
    numbers = {option: values.get(option) or default for option, default in PRETRAINING_NUMBERS.items()}
    if not isinstance(given, str | dict) or not all(isinstance(number, int) for number in numbers.values()) or not numbers["max_steps"]:
        raise ParamsError(f"{place}: {PRETRAINING} is a repository, and max_steps says how much of it is read; set max_steps to a number")
    rows = values.get("batch_size") or numbers["micro_batch_size"] * numbers["gradient_accumulation_steps"]
    entry = {"path": given} if isinstance(given, str) else {k: v for k, v in given.items() if v is not None}
    entry = {"type": "completion", "max_bytes": BYTES_A_TOKEN * numbers["max_steps"] * rows * numbers["sequence_len"], **entry}
    if "split" in entry:
        entry["train_on_split"] = entry.pop("split")
    out.values["datasets"] = {"pretraining": {"streaming": not PurePosixPath(str(entry.get("path"))).suffix, **entry}}
    out.lines[("datasets",)] = document.lines.get((PRETRAINING,), 0)
    if "sample_packing" not in values:
        out.set(("packing", "sample_packing"), True)


def _free_name(entry: Any, configuration: str | None, taken: dict[str, Any]) -> str:
    """`data/My file.jsonl` → `My-file`; a second one → `My-file-2`."""
    path = str(entry.get("path", "data")) if isinstance(entry, dict) else "data"
    stem = PurePosixPath(path).name.split(".")[0] + (f"-{configuration}" if configuration else "")
    base = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "data"
    name, n = base, 1
    while name in taken:
        n += 1
        name = f"{base}-{n}"
    return name


def _copy_lines(document: Document, old: Where, out: Document, new: Where) -> None:
    for where, line in document.lines.items():
        if where[: len(old)] == old:
            out.lines[(*new, *where[len(old) :])] = line
