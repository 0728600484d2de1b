"""What `axolotl check` can know of data, base model and machine from the files that are here, before anything runs."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from axolotl_core.artifacts import manifest
from axolotl_core.errors import ArtifactError, AxolotlError, DataError, ModelError, ParamsError
from axolotl_core.params.datasets import Dataset
from axolotl_core.params.params import Params
from axolotl_core.prompts.columns import shaped
from axolotl_core.prompts.resolve import format_of, read
from axolotl_core.sources.files import files_of, place_of
from axolotl_core.sources.files import reader as reader_of
from axolotl_core.sources.place import resolve
from axolotl_core.sources.readers import Bad, Numbered, read_file
from axolotl_core.stages.job import Project

LOOKED_AT = 50
"""Rows of each dataset that are tried with its format."""
GIB = 2**30
OPTION = re.compile(r"([a-z]+\.[a-z_]+):? (.*)", re.DOTALL)
"""A sentence that begins with an option."""
STATE_BYTES = 12
"""Of a trained weight in a checkpoint: itself and two moments, in fp32."""


def rows(project: Project, params: Params) -> Iterator[tuple[str, str]]:
    """(option, sentence) for a local dataset whose first rows its format does not read."""
    for name, data in params.datasets.items():
        problem = _misfit(project, data)
        if problem:
            yield f"datasets.{name}.type", problem


def _misfit(project: Project, data: Dataset) -> str | None:
    if data.on_bad_row == "skip":
        return None
    format = format_of(data, project.root)
    try:
        for place, row in islice(_rows(project, data, with_bad=True), LOOKED_AT):
            if isinstance(row, Bad):
                return f"{place}: {row.problem}"
            try:
                _tried(data, format, shaped(row, data.rename, data.join), project.root)
            except DataError as error:
                return f"{place}: {error}"
    except DataError as error:
        return str(error)
    return None


def _tried(data: Dataset, format: Any, row: dict[str, Any], root: Path) -> None:
    """Read a row as tokenize will; of a conversation only what it is, where its template is the tokenizer's, which is not known here."""
    if data.type != "chat_template":
        with suppress(LookupError):  # a format that reads rows only when it knows the tokenizer
            read(format, row)
        return
    from axolotl_core.formats.chat_template import looked_at, written
    from axolotl_core.prompts.template import ChatTemplate
    from axolotl_core.prompts.templates import template_of

    source = template_of(data, root).source
    if source is None:
        looked_at(data, row)
        return
    written(data, ChatTemplate(source, {"bos_token": "<s>", "eos_token": "</s>"}, data.chat_template_kwargs)).read(row)


def rows_of(path: Path, data: Dataset) -> Numbered:
    """The rows of one file of a dataset with their lines, `Bad` ones too."""
    return read_file(path, path.name, data.ds_type or reader_of(data), text_split=data.text_split or "paragraph")


def _rows(project: Project, data: Dataset, *, with_bad: bool = False) -> Iterator[tuple[str, Any]]:
    """Rows that can be read, of a dataset on this machine, and on request `Bad` ones; none of one that is not here."""
    place = place_of(data, project.root)
    if place.kind == "hub":
        return
    for path in files_of(place, data).paths:
        for line, row in rows_of(path, data):
            if with_bad or not isinstance(row, Bad):
                yield f"{path.name}:{line}", row


def validation(project: Project, params: Params) -> Iterator[tuple[str, str]]:
    """A number of validation rows that leaves nothing to train on."""
    size = params.packing.val_set_size
    trained = [data for data in params.datasets.values() if not data.held_out]
    with suppress(DataError):
        if size >= 1 and all(place_of(data, project.root).kind != "hub" for data in trained):
            count = sum(1 for _ in islice((row for data in trained for row in _rows(project, data)), int(size) + 1))
            if count <= size:
                yield "packing.val_set_size", f"is {size:g}, and the datasets have {count:,} rows; lower it, nothing is left to train on"


def model(project: Project, params: Params) -> Iterator[tuple[str, str]]:
    """What the base's config cannot have: modules of an adapter, positions. Nothing where the base is not on this machine."""
    folder = base_folder(project, params)
    if folder is None:
        return
    from axolotl_core.adapters.lora import check_names  # imports torch
    from axolotl_core.models.positions import changes
    from axolotl_core.models.shape import check_positions, model_on_meta

    try:
        shape = model_on_meta(folder)
        if params.model.rope_scaling:
            changes(shape.config, params.model.rope_scaling)
        if not _otherwise_scaled(folder, params):
            check_positions(shape, params.packing.sequence_len, params.model.rope_scaling)
        if params.adapter.adapter in ("lora", "qlora") and params.adapter.lora_model_dir is None:
            check_names(shape, params.adapter)
    except (ModelError, ParamsError) as error:
        found = OPTION.match(str(error))
        yield (found[1], found[2]) if found else ("model.base_model", str(error))


def attention(project: Project, params: Params) -> tuple[list[str], list[str]]:
    """Sentences where other attention or kernels are taken than params.yaml prefers, and one about what attention runs here and why.

    Nothing where the base is not on this machine. Raises ModelError for a preference that must be met.
    """
    folder = base_folder(project, params)
    if folder is None:
        return [], []
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig

    from axolotl_core.attention.choose import choose as choose_attention
    from axolotl_core.attention.choose import explained
    from axolotl_core.kernels.choose import unmet
    from axolotl_core.models.load import device_of, need_of
    from axolotl_core.models.precision import choose

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return [], []
    device, full = device_of(params.machine), params.adapter.adapter is None
    precision = choose(params.training, params.model, device, full=full)
    dtype = precision.autocast or (precision.trained if full else precision.frozen)
    need = need_of(config, device, dtype, packed=params.packing.sample_packing)
    _, note = choose_attention(params.machine, need)
    return [*([note] if note else []), *unmet(params.machine, need)], [explained(params.machine, need)]


def base_folder(project: Project, params: Params) -> Path | None:
    """A folder with the base's config.json on this machine: its own, or artifacts/base of the same base."""
    try:
        place = resolve(params.model.base_model, project.root)
    except AxolotlError:
        return None
    if place.kind == "folder":
        return place.local if (place.local / "config.json").is_file() else None
    fetched = fetched_base(project)
    if fetched and json.loads((fetched / "pin.json").read_text(encoding="utf-8"))["place"] == params.model.base_model:
        return fetched
    return None


def _otherwise_scaled(base: Path, params: Params) -> bool:
    """Whether it is an artifact base/ whose config has another model.rope_scaling than is asked for now, and is made anew."""
    file = base / "pin.json"
    if not file.is_file():
        return False
    has = json.loads(file.read_text(encoding="utf-8")).get("rope_scaling")
    return bool(has != (params.model.rope_scaling.identity() if params.model.rope_scaling else None))


def fetched_base(project: Project) -> Path | None:
    """artifacts/base where it is there and whole."""
    base = project.artifacts / "base"
    try:
        facts = manifest.verify(base, project.stats.digest)
    except ArtifactError:
        return None
    return base if {"config.json", "pin.json"} <= {entry["file"] for entry in facts["files"]} else None


def disk(project: Project, params: Params) -> Iterator[str]:
    """A sentence where less is free than a run will write, as far as the base's size is known."""
    folder = base_folder(project, params)
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder else 0
    if not weights:
        return
    whole = params.adapter.adapter is None
    written = weights * (2 if whole or params.adapter.relora_steps else 1)  # the result, and merged; export is a link
    if whole:
        written += weights // 4 * STATE_BYTES * (params.tracking.save_total_limit + 1)
    free = shutil.disk_usage(project.root).free
    if written > free:
        message = f"about {written / GIB:.1f} GiB will be written, {free / GIB:.1f} GiB are free in {project.root}"
        yield f"{message}; make room, or lower tracking.save_total_limit"


def login(params: Params) -> list[str]:
    """Whether a run that asks for W&B will be kept on this machine, as a sentence."""
    import os

    tracking = params.tracking
    requested = tracking.wandb_project or os.environ.get("WANDB_PROJECT")
    if not requested or (tracking.wandb_mode or os.environ.get("WANDB_MODE")):
        return []
    from axolotl_core.tracking.wandb import OFFLINE, logged_in

    return [] if logged_in() else [OFFLINE]
