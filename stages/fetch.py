"""fetch: bring rows, tokenizer and base model into artifacts/. Three DVC stages, so that a machine which only prepares
data never needs the weights."""

import os
from collections.abc import Iterator
from itertools import compress, islice
from pathlib import Path

import numpy as np

from axolotl_core.errors import ParamsError
from axolotl_core.params.datasets import Dataset
from axolotl_core.progress import progress
from axolotl_core.sources.files import Files, files_of, fits, place_of, reader
from axolotl_core.sources.outside import name_in_key
from axolotl_core.sources.place import Place, name_of, resolve
from axolotl_core.sources.raw import REJECTED, SourceRow, write_raw
from axolotl_core.sources.readers import Bad, Tell, read_file
from axolotl_core.sources.splits import sliced
from axolotl_core.sources.steady import Steady
from axolotl_core.stages.graph import DATA
from axolotl_core.stages.job import Job, Result

SHARD_SEED = 42


def dataset(job: Job) -> Result:
    """raw/<dataset>: the rows as they came."""
    data: Dataset = job.params.dataset
    place = place_of(data, job.project.root)
    fits(place, str(job.step.dataset), data)
    notes: dict[str, None] = {}
    files = None if place.kind == "hub" else files_of(place, data)
    if "DVC_STAGE" in os.environ:
        _watched_by_dvc(files, job)
    wanted = {path: job.identity["inputs"].get(name_in_key(i, path, place)) for i, path in enumerate(files.paths if files else ())}
    with Steady(wanted, job.project.stats) as steady:
        rows = islice(_rows(place, files, data, job, steady, lambda note: notes.update({note: None})), data.max_rows)
        rows = progress(rows, data.max_rows, f"fetch {job.step.dataset}", "rows")
        facts = write_raw(job.out, rows, data.path, skip=data.on_bad_row == "skip", max_bytes=data.max_bytes)
        steady.check()
    skipped = f" ({facts['malformed']:,} malformed left out, see {REJECTED})" if "malformed" in facts else ""
    summary = f"{facts['rows']:,} rows of {data.path}{files.summary() if files else ''}{skipped}"
    return Result(facts, "\n  ".join([summary, *notes]))


def tokenizer(job: Job) -> Result:
    """tokenizer/: tokenizer.json, its config and the chat template, with the tokens that params.yaml adds."""
    from axolotl_core.tokens.make import make_tokenizer  # imports transformers

    source = job.params.tokenizer.tokenizer_config or job.params.model.base_model
    place = resolve(source, job.project.root)
    size, new = make_tokenizer(
        Place(source, "folder", job.own) if place.kind == "folder" else place,
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
    from axolotl_core.models.pin import left_out, other_class, pin_model  # imports transformers

    facts = pin_model(
        job.params.model,
        job.project.root,
        job.out,
        token=job.params.machine.hf_use_auth_token,
        stats=job.project.stats,
        wanted=job.identity["inputs"],
    )
    summary = f"{facts['parameters']:,} parameters, {facts['family']}, from {job.params.model.base_model}"
    others = ", ".join(left_out(job.params.model, job.project.root))
    lines = [summary + (f" ({others} beside it: no part of the model)" if others else "")]
    if taken := other_class(job.params.model, job.out):
        lines.append(f"{taken} is taken, as the model's config says, in the place of model.model_type {job.params.model.model_type}")
    if job.params.model.trust_remote_code:
        lines.append("model.trust_remote_code: no code of the repository is run, transformers has a class of its own for this family")
    return Result(facts, "\n  ".join(lines))


def _rows(place: Place, files: Files | None, data: Dataset, job: Job, steady: Steady, tell: Tell) -> Iterator[SourceRow]:
    rows = _split_rows(place, files, data, job, steady, tell)
    if data.shards is None:
        return rows
    total = sum(1 for _ in rows)
    kept = np.zeros(total, bool)
    kept[np.random.default_rng(SHARD_SEED).permutation(total)[:: data.shards]] = True
    return compress(_split_rows(place, files, data, job, steady, tell), kept)


def _split_rows(place: Place, files: Files | None, data: Dataset, job: Job, steady: Steady, tell: Tell) -> Iterator[SourceRow]:
    """The rows of the split, or of the slice of it that train_on_split names."""
    _, wanted = sliced(data.train_on_split)
    rows = _all_rows(place, files, data, job, steady, tell)
    if wanted is None:
        return rows
    if wanted.counts_from_start:
        start, stop = (bound[0] if bound else None for bound in (wanted.start, wanted.stop))
        return islice(rows, start, stop)
    chosen = wanted.rows(sum(1 for _ in rows))
    return islice(_all_rows(place, files, data, job, steady, tell), chosen.start, chosen.stop)


def _all_rows(place: Place, files: Files | None, data: Dataset, job: Job, steady: Steady, tell: Tell) -> Iterator[SourceRow]:
    """files: None for a dataset of the hub."""
    if files is None:
        from axolotl_core.sources.hub import read_hub  # imports datasets

        numbered = read_hub(
            data.path,
            name=data.name,
            data_files=data.data_files,
            split=sliced(data.train_on_split)[0],
            revision=data.revision,
            token=job.params.machine.hf_use_auth_token,
            streaming=data.streaming,
        )
        yield from (SourceRow(data.path, line, row) for line, row in numbered)
        return
    kind = data.ds_type or reader(data)
    for path in files.paths:
        below = name_of(os.path.relpath(path, place.local))
        shown = data.path if place.kind == "file" else below if reader(data) else f"{data.path}/{below}"
        for line, row in read_file(path, shown, kind, tell, data.text_split, steady.open):
            yield SourceRow(shown, line, row.value, row.problem) if isinstance(row, Bad) else SourceRow(shown, line, row)


def _watched_by_dvc(files: Files | None, job: Job) -> None:
    if files and (problem := unwatched(files, str(job.step.dataset), job.params.dataset.path, job.project.root)):
        raise ParamsError(f"params.yaml: {problem}")


def unwatched(files: Files, name: str, text: str, root: Path) -> str | None:
    """What is wrong with a dataset that DVC would not see change, or None. text: its path as params.yaml has it."""
    watched = (root / DATA).resolve()
    if all(path.resolve().is_relative_to(watched) for path in files.paths):
        return None
    return (
        f"datasets.{name}.path is {text}, outside the folder {DATA}/, so DVC would not "
        f"see it change; move it there, or bring it in with `dvc import-url {text} {DATA}/`"
    )
