"""fetch: bring rows, tokenizer and base model into artifacts/. Three DVC stages, so that a machine which only prepares
data never needs the weights."""

import os
from collections.abc import Iterator
from itertools import compress, islice

import numpy as np

from axolotl_core.errors import ParamsError
from axolotl_core.params.datasets import Dataset
from axolotl_core.sources.files import files_of, fits
from axolotl_core.sources.place import Place, resolve
from axolotl_core.sources.raw import REJECTED, SourceRow, write_raw
from axolotl_core.sources.readers import Bad, read_file
from stages.graph import DATA
from stages.job import Job, Result

SHARD_SEED = 42


def dataset(job: Job) -> Result:
    """raw/<data set>: the rows as they came."""
    data: Dataset = job.params.dataset
    place = resolve(data.path, job.project.root)
    fits(place, str(job.step.dataset), data)
    if "DVC_STAGE" in os.environ:
        _watched_by_dvc(place, job)
    rows = islice(_rows(place, data, job), data.max_rows)
    facts = write_raw(job.out, rows, data.path, skip=data.on_bad_row == "skip", max_bytes=data.max_bytes)
    skipped = f" ({facts['malformed']:,} malformed left out, see {REJECTED})" if "malformed" in facts else ""
    return Result(facts, f"{facts['rows']:,} rows of {data.path}{skipped}")


def tokenizer(job: Job) -> Result:
    """tokenizer/: tokenizer.json, its config and the chat template, with the tokens that params.yaml adds."""
    from axolotl_core.tokens.make import make_tokenizer  # imports transformers

    source = job.params.tokenizer.tokenizer_config or job.params.model.base_model
    size = make_tokenizer(
        resolve(source, job.project.root),
        job.out,
        revision=None if job.params.tokenizer.tokenizer_config else job.params.model.model_revision,
        token=job.params.machine.hf_use_auth_token,
        kind=job.params.tokenizer.tokenizer_type,
        legacy=job.params.tokenizer.tokenizer_legacy,
        special_tokens=job.params.tokenizer.special_tokens,
        tokens=job.params.tokenizer.tokens,
    )
    return Result({"vocabulary": size}, f"{size:,} tokens, from {source}")


def model(job: Job) -> Result:
    """base/: a pin of the weights where they lie; a GGUF file is turned into safetensors."""
    from axolotl_core.models.pin import pin_model  # imports transformers

    facts = pin_model(
        job.params.model,
        job.project.root,
        job.out,
        token=job.params.machine.hf_use_auth_token,
        stats=job.project.stats,
    )
    return Result(facts, f"{facts['parameters']:,} parameters, {facts['family']}, from {job.params.model.base_model}")


def _rows(place: Place, data: Dataset, job: Job) -> Iterator[SourceRow]:
    if data.shards is None:
        return _all_rows(place, data, job)
    total = sum(1 for _ in _all_rows(place, data, job))
    kept = np.zeros(total, bool)
    kept[np.random.default_rng(SHARD_SEED).permutation(total)[:: data.shards]] = True
    return compress(_all_rows(place, data, job), kept)


def _all_rows(place: Place, data: Dataset, job: Job) -> Iterator[SourceRow]:
    if place.kind == "hub":
        from axolotl_core.sources.hub import read_hub  # imports datasets

        numbered = read_hub(
            data.path,
            name=data.name,
            data_files=data.data_files,
            split=data.train_on_split,
            revision=data.revision,
            token=job.params.machine.hf_use_auth_token,
            streaming=data.streaming,
        )
        yield from (SourceRow(data.path, line, row) for line, row in numbered)
        return
    for path in files_of(place, data):
        shown = data.path if place.kind == "file" else f"{data.path}/{path.relative_to(place.local)}"
        for line, row in read_file(path, shown, data.ds_type):
            yield SourceRow(shown, line, row.value, row.told) if isinstance(row, Bad) else SourceRow(shown, line, row)


def _watched_by_dvc(place: Place, job: Job) -> None:
    if place.kind != "hub" and not place.local.resolve().is_relative_to((job.project.root / DATA).resolve()):
        raise ParamsError(
            f"params.yaml: datasets.{job.step.dataset}.path is {place.text}, outside the folder {DATA}/, so DVC would not "
            f"see it change; move it there, or bring it in with `dvc import-url {place.text} {DATA}/`"
        )
