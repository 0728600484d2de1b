"""The entries of `datasets`, `test_datasets` and `pretraining_dataset` → named datasets."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from axolotl_core.errors import ParamsError, nearest
from axolotl_core.params.datasets import Dataset
from axolotl_core.params.document import Document, Where
from axolotl_core.params.flat import values
from axolotl_core.params.flat.migration import Migration
from axolotl_core.params.flat.options import PREFERENCE, VISION

PRETRAINING = "pretraining_dataset"
TEST = "test_datasets"
PRETRAINING_NUMBERS = {"max_steps": 0, "micro_batch_size": 1, "gradient_accumulation_steps": 1, "sequence_len": 512}
BYTES_A_TOKEN = 8
RENAMED = {"split": "train_on_split", "text_column": "field"}
"""Key of an entry in Axolotl → ours."""
NOT_NEEDED = {
    "trust_remote_code": "no code of a dataset is run",
    "preprocess_shards": "rows are written in blocks as they come",
    "strategy": "the format says how a conversation is cut",
    "skip_prepare_dataset": "each dataset is prepared by its own stage",
}
LEFT_OUT = {
    **dict.fromkeys(("field_chosen", "field_rejected", "field_prompt", "field_completion", "field_label", "step_separator"), PREFERENCE),
    **dict.fromkeys(("max_completion_length", "train_on_last_step_only", "rewards_field"), PREFERENCE),
    **dict.fromkeys(("field_images", "image_base_path", "image_column"), VISION),
    **dict.fromkeys(("logprobs_field", "temperature"), "distillation from another model is not built"),
    "shards_idx": "another shard than the first cannot be chosen; shards takes one row in N",
    "skip": "rows at the beginning cannot be skipped",
    "message_field_training_detail": "training parts of a message by character offsets is not built",
    "input_format": "a prompt of your own is a mapping under `type`",
    "input_transform": "a format of your own reads rows as you like: my_module.load_fn",
    "weight": "rows are taken as often as they are there",
}
"""Key of an entry → why it is not taken."""
TYPES = {"chat_template.default": "chat_template", "chat_template.argilla_chat": "chat_template", "pretrain": "completion"}
"""Spelling of `type` → ours."""
PREFERENCE_TYPES = re.compile(
    r"(bradley_terry|chat_template\.(default|argilla).*chosen|chatml\.(intel|prompt_pairs|ultra|argilla.*|icr)|llama3\.(intel|prompt_pairs|ultra|"
    r"argilla.*|icr)|zephyr\.nectar|ebft|stepwise_supervised|user_defined\.default|passthrough\.default)\b.*"
)


def named(document: Document, option: str, out: Document, *, held_out: bool = False) -> list[Migration]:
    """Put the entries of a list into `out` under names from their paths; returns what became of their keys."""
    entries = document.values[option]
    if not isinstance(entries, list):
        before = out.values.get("datasets")
        others = before if isinstance(before, dict) and isinstance(entries, dict) else {}
        out.values["datasets"] = entries = dict(entries) if isinstance(entries, dict) else entries
        document.move((option,), ("datasets",), out)
        found = list(_migrations_of_mapping(out, option))
        if held_out and isinstance(entries, dict):
            out.values["datasets"] = {name: {**e, "held_out": True} if isinstance(e, dict) else e for name, e in entries.items()}
        out.values["datasets"] = {**others, **out.values["datasets"]} if others else out.values["datasets"]
        return found
    datasets = out.values.setdefault("datasets", {})
    if not isinstance(datasets, dict):
        raise ParamsError(f"{document.place(('datasets',))}: datasets is {datasets!r}, wanted a list of datasets")
    out.lines.setdefault(("datasets",), document.lines.get((option,), 0))
    if comment := document.comments.get((option,)):
        out.comments[("datasets",)] = comment
    migrations: list[Migration] = []
    for i, entry in enumerate(entries):
        configurations = entry.get("name") if isinstance(entry, dict) else None
        several = configurations if isinstance(configurations, list) else None
        for n, configuration in enumerate(several or [None]):
            name = _free_name(entry, configuration, datasets)
            found = _take(document, (option, i), out, name)
            if several:
                datasets[name]["name"] = configuration
            if held_out and isinstance(datasets[name], dict):
                datasets[name]["held_out"] = True
            migrations += found if n == 0 else []
    return migrations


def _migrations_of_mapping(out: Document, option: str) -> Iterator[Migration]:
    found = out.values["datasets"]
    for name in list(found) if isinstance(found, dict) else ():
        entry = found[name]
        if isinstance(entry, dict):
            found[name], migrations = spelled_here(entry, f"{option}.{name}")
            yield from migrations
            _rename_lines(out, ("datasets", name), entry)


def _take(document: Document, old: Where, out: Document, name: str) -> list[Migration]:
    entry = document.values[old[0]][old[1]]  # type: ignore[index]
    document.move(old, ("datasets", name), out)
    if not isinstance(entry, dict):
        out.values["datasets"][name] = entry
        return []
    out.values["datasets"][name], migrations = spelled_here(entry, f"{old[0]}[{old[1]}]")
    _rename_lines(out, ("datasets", name), entry)
    return migrations


def _rename_lines(out: Document, where: Where, entry: Mapping[str, Any]) -> None:
    for theirs, ours in RENAMED.items():
        if theirs in entry:
            out.move((*where, theirs), (*where, ours), out)


def spelled_here(entry: Mapping[str, Any], shown: str) -> tuple[dict[str, Any], list[Migration]]:
    """An entry with our keys and values, and the migration of each that is another one. Null is unset."""
    made: dict[str, Any] = {}
    migrations: list[Migration] = []
    for key, value in entry.items():
        if value is None:
            continue
        if key in RENAMED:
            made[RENAMED[key]] = value
            migrations.append(Migration(f"{shown}.{key}", "renamed", RENAMED[key]))
        elif key in NOT_NEEDED:
            migrations.append(Migration(f"{shown}.{key}", "not needed", NOT_NEEDED[key]))
        elif key in LEFT_OUT:
            if value not in (0, False):
                migrations.append(Migration(f"{shown}.{key}", "left out", LEFT_OUT[key], stops=True))
        elif key == "type" and isinstance(value, str) and value in TYPES:
            made[key] = TYPES[value]
            migrations.append(Migration(f"{shown}.type", "replaced", f"type: {TYPES[value]}"))
        elif key == "type" and isinstance(value, str) and PREFERENCE_TYPES.match(value):
            made[key] = value
            migrations.append(Migration(f"{shown}.type", "left out", PREFERENCE, stops=True))
        elif key == "chat_template" and (message := values.models_own(value)):
            made[key] = values.OWN_TEMPLATE
            migrations.append(Migration(f"{shown}.{key}", "replaced", message))
        elif key == "type" and isinstance(value, dict):
            made[key] = {option: text for option, text in value.items() if text is not None}
        elif key in Dataset.model_fields:
            made[key] = value
        else:
            near = nearest(str(key), Dataset.model_fields)
            migrations.append(Migration(f"{shown}.{key}", "left out", f"no option of a dataset that is known here{near}", stops=True))
    return made, migrations


def pretraining(document: Document, out: Document, processes: int = 1) -> list[Migration]:
    """`pretraining_dataset: repo` → streamed datasets of plain text, long enough for max_steps on so many processes.

    Text has fewer than BYTES_A_TOKEN bytes a token, so what is fetched suffices for one pass of max_steps steps.
    Raises ParamsError beside `datasets`, and without max_steps.
    """
    given, values = document.values[PRETRAINING], document.values
    place = document.place((PRETRAINING,))
    if values.get("datasets"):
        raise ParamsError(f"{place}: {PRETRAINING} and datasets are both set; remove one")
    numbers = {option: values.get(option) or default for option, default in PRETRAINING_NUMBERS.items()}
    entries = given if isinstance(given, list) else [given]
    fits = all(isinstance(entry, str | dict) for entry in entries) and all(isinstance(number, int) for number in numbers.values())
    if not fits or not numbers["max_steps"]:
        raise ParamsError(f"{place}: {PRETRAINING} is a repository, and max_steps says how much of it is read; set max_steps to a number")
    rows = values.get("batch_size") or numbers["micro_batch_size"] * numbers["gradient_accumulation_steps"]
    size = BYTES_A_TOKEN * numbers["max_steps"] * rows * processes * numbers["sequence_len"]
    datasets: dict[str, Any] = {}
    migrations = [Migration(PRETRAINING, "renamed", "datasets")]
    for i, entry in enumerate(entries):
        key: Where = (PRETRAINING, i) if isinstance(given, list) else (PRETRAINING,)
        made, found = spelled_here(entry, f"{PRETRAINING}[{i}]") if isinstance(entry, dict) else ({"path": entry}, [])
        migrations += found
        name = "pretraining" if i == 0 else f"pretraining-{i + 1}"
        local = bool(PurePosixPath(str(made.get("path"))).suffix)
        datasets[name] = {"type": "completion", "max_bytes": size, "streaming": not local, **made}
        document.move(key, ("datasets", name), out)
    out.values["datasets"] = datasets
    out.lines[("datasets",)] = document.lines.get((PRETRAINING,), 0)
    if "sample_packing" not in values:
        out.set(("packing", "sample_packing"), True)
    return migrations


def _free_name(entry: Any, configuration: str | None, taken: Mapping[str, Any]) -> str:
    """`data/My file.jsonl` → `My-file`; a second one → `My-file-2`."""
    path = str(entry.get("path", "data")) if isinstance(entry, dict) else "data"
    stem = PurePosixPath(path).name.split(".")[0] + (f"-{configuration}" if configuration else "")
    base = re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-") or "data"
    name, n = base, 1
    while name in taken:
        n += 1
        name = f"{base}-{n}"
    return name
