"""fetch: bring rows, tokenizer and base model into artifacts/. Three DVC stages, so that a machine which only prepares
data never needs the weights."""

import os
from collections.abc import Iterator
from itertools import compress, islice

import numpy as np

from axolotl_core.errors import ParamsError
from axolotl_core.params.datasets import Dataset
from axolotl_core.sources.files import Files, files_of, fits, place_of, reader
from axolotl_core.sources.place import Place, resolve
from axolotl_core.sources.raw import REJECTED, SourceRow, write_raw
from axolotl_core.sources.readers import Bad, Tell, read_file
from stages.graph import DATA
from stages.job import Job, Result

SHARD_SEED = 42


def dataset(job: Job) -> Result:
    """raw/<data set>: the rows as they came."""
    data: Dataset = job.params.dataset
    place = place_of(data, job.project.root)
    fits(place, str(job.step.dataset), data)
    notes: dict[str, None] = {}
    files = None if place.kind == "hub" else files_of(place, data)
    if "DVC_STAGE" in os.environ:
        _watched_by_dvc(files, job)
    rows = islice(_rows(place, files, data, job, lambda note: notes.update({note: None})), data.max_rows)
    facts = write_raw(job.out, rows, data.path, skip=data.on_bad_row == "skip", max_bytes=data.max_bytes)
    skipped = f" ({facts['malformed']:,} malformed left out, see {REJECTED})" if "malformed" in facts else ""
    said = f"{facts['rows']:,} rows of {data.path}{files.said() if files else ''}{skipped}"
    return Result(facts, "\n  ".join([said, *notes]))


def tokenizer(job: Job) -> Result:
    """tokenizer/: tokenizer.json, its config and the chat template, with the tokens that params.yaml adds."""
    from axolotl_core.tokens.make import make_tokenizer  # imports transformers

    source = job.params.tokenizer.tokenizer_config or job.params.model.base_model
    size, new = make_tokenizer(
        resolve(source, job.project.root),
        job.out,
        revision=None if job.params.tokenizer.tokenizer_config else job.params.model.model_revision,
        token=job.params.machine.hf_use_auth_token,
        kind=job.params.tokenizer.tokenizer_type,
        legacy=job.params.tokenizer.tokenizer_legacy,
        special_tokens=job.params.tokenizer.special_tokens,
        tokens=job.params.tokenizer.tokens,
    )
    return Result({"vocabulary": size, **({"new_tokens": new} if new else {})}, f"{size:,} tokens, from {source}")


def model(job: Job) -> Result:
    """base/: a pin of the weights where they lie; a GGUF file is turned into safetensors."""
    from axolotl_core.models.pin import left_out, pin_model  # imports transformers

    facts = pin_model(
        job.params.model,
        job.project.root,
        job.out,
        token=job.params.machine.hf_use_auth_token,
        stats=job.project.stats,
    )
    said = f"{facts['parameters']:,} parameters, {facts['family']}, from {job.params.model.base_model}"
    others = ", ".join(left_out(job.params.model, job.project.root))
    return Result(facts, said + (f" ({others} beside it: no part of the model)" if others else ""))


def _rows(place: Place, files: Files | None, data: Dataset, job: Job, tell: Tell) -> Iterator[SourceRow]:
    if data.shards is None:
        return _all_rows(place, files, data, job, tell)
    total = sum(1 for _ in _all_rows(place, files, data, job, tell))
    kept = np.zeros(total, bool)
    kept[np.random.default_rng(SHARD_SEED).permutation(total)[:: data.shards]] = True
    return compress(_all_rows(place, files, data, job, tell), kept)


def _all_rows(place: Place, files: Files | None, data: Dataset, job: Job, tell: Tell) -> Iterator[SourceRow]:
    """files: None for a data set of the hub."""
    if files is None:
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
    kind = data.ds_type or reader(data)
    for path in files.paths:
        below = os.path.relpath(path, place.local)
        shown = data.path if place.kind == "file" else below if reader(data) else f"{data.path}/{below}"
        for line, row in read_file(path, shown, kind, tell):
            yield SourceRow(shown, line, row.value, row.told) if isinstance(row, Bad) else SourceRow(shown, line, row)


def _watched_by_dvc(files: Files | None, job: Job) -> None:
    watched = (job.project.root / DATA).resolve()
    for path in files.paths if files else ():
        if not path.resolve().is_relative_to(watched):
            text = job.params.dataset.path
            raise ParamsError(
                f"params.yaml: datasets.{job.step.dataset}.path is {text}, outside the folder {DATA}/, so DVC would not "
                f"see it change; move it there, or bring it in with `dvc import-url {text} {DATA}/`"
            )
