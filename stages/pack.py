"""pack: lengths of all samples → which of them share a row, for training and for evaluation."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from axolotl_core.artifacts import manifest
from axolotl_core.errors import DataError, ParamsError
from axolotl_core.packing.index import write_rows
from axolotl_core.packing.plan import SampleSpans, fit, hold_out, keep_shard, lay_out, split
from axolotl_core.params.packing import Packing
from axolotl_core.stages.graph import ARTIFACTS, watched
from axolotl_core.stages.job import Job, Result
from axolotl_core.tokens.samples import Samples

EXCESS = {"drop": "dropped", "truncate": "cut", "split": "split"}


@dataclass
class LeftOut:
    """Samples that are not laid into rows as they are, by dataset and reason."""

    too_long: dict[str, dict[str, Any]] = field(default_factory=dict)
    """{"samples": count, "fate": drop, truncate or split}"""
    duplicates: dict[str, int] = field(default_factory=dict)
    without_target: dict[str, int] = field(default_factory=dict)


def run(job: Job) -> Result:
    """packed/ from tokens/ of every dataset that params.yaml names."""
    packing: Packing = job.params.packing
    if "DVC_STAGE" in os.environ:
        _watched_by_dvc(job)
    samples, left_out = [Samples(job.input("tokens") / name) for name in job.datasets], LeftOut()
    spans = _chosen(job, samples, left_out)
    train, validation = _divided(job, spans, left_out)
    facts: dict[str, Any] = {
        "datasets": list(job.datasets),
        "sequence_len": packing.sequence_len,
        "pad_to_sequence_len": packing.pad_to_sequence_len,
        "too_long": left_out.too_long,
    }
    eval_packed = packing.sample_packing if packing.eval_sample_packing is None else packing.eval_sample_packing
    for part, chosen, packed in (("train", train, packing.sample_packing), ("eval", validation, eval_packed)):
        chosen = _with_targets(split(chosen, packing.sequence_len), samples, job.datasets, left_out)
        rows = lay_out(chosen, packing.sequence_len, packed)
        write_rows(job.out / part, rows)
        facts[part] = {"rows": len(rows), "samples": len(chosen), "tokens": int(chosen.lengths.sum())}
        facts[part]["trained_tokens"] = int(targets(chosen, samples).sum())
    if not facts["train"]["rows"]:
        raise DataError(
            f"no token is trained: all that sequence_len {packing.sequence_len} leaves of the answers is held out; raise it, or lower "
            "val_set_size"
        )
    if left_out.without_target:
        facts["without_target"] = left_out.without_target
    if left_out.duplicates:
        facts["twins"] = left_out.duplicates
    return Result(facts, summary_line(facts, packing, len(train), len(spans), left_out))


def _chosen(job: Job, samples: Sequence[Samples], left_out: LeftOut) -> SampleSpans:
    """The samples of this shard that fit and teach something. Raises DataError when none is left."""
    packing: Packing = job.params.packing
    found = []
    for i, name in enumerate(job.datasets):
        excess = packing.excess_length
        if excess == "auto":
            excess = manifest.read(job.input("tokens") / name)["excess_length"]
        if excess == "raise":
            _none_too_long(name, samples[i].lengths, packing.sequence_len)
            excess = "drop"
        spans, long = fit(i, samples[i].lengths, packing.sequence_len, excess)
        found.append(spans)
        if long:
            left_out.too_long[name] = {"samples": long, "fate": excess}
    spans = keep_shard(SampleSpans.join(found), packing)
    if packing.dataset_exact_deduplication:
        spans = _without_duplicates(spans, samples, job.datasets, left_out)
    if len(spans) == 0:
        raise DataError(
            f"no sample is left to pack: all are longer than sequence_len {packing.sequence_len}; raise it or set excess_length"
        )
    spans = _with_targets(spans, samples, job.datasets, left_out)
    if len(spans) == 0:
        raise DataError(f"no token is trained: sequence_len {packing.sequence_len} cuts every answer off; raise it")
    return spans


def _divided(job: Job, spans: SampleSpans, left_out: LeftOut) -> tuple[SampleSpans, SampleSpans]:
    """(train, validation): val_set_size of the samples, and all of the datasets that are held out."""
    packing: Packing = job.params.packing
    held_out = [i for i, name in enumerate(job.datasets) if job.params.datasets[name].held_out]
    tests = np.isin(spans.dataset, held_out)
    try:
        seed = packing.shuffle_seed if packing.shuffle_merged_datasets else None
        train, validation = hold_out(spans[~tests], packing.val_set_size, seed)
    except DataError as error:
        gone = sum(left_out.without_target.values())
        raise DataError(f"{error} ({gone:,} more have no target token within sequence_len)" if gone else str(error)) from None
    return train, SampleSpans.join([validation, spans[tests]])


def summary_line(facts: dict[str, Any], packing: Packing, train: int, total: int, left_out: LeftOut) -> str:
    """train, total: samples to train on, and with those of validation."""
    used = facts["train"]["tokens"] / (facts["train"]["rows"] * packing.sequence_len)
    line = f"{facts['train']['rows']:,} rows of {packing.sequence_len} from {train:,} samples ({used:.1%} filled), "
    line += f"{facts['eval']['rows']:,} validation rows"
    if packing.val_set_size and not facts["eval"]["rows"]:
        line += f" (val_set_size {packing.val_set_size:g} of {total:,} samples rounds to 0)"
    for name, excess in left_out.too_long.items():
        line += f"; {name}: {excess['samples']:,} samples over {packing.sequence_len} tokens {EXCESS[excess['fate']]}"
    for name, count in left_out.duplicates.items():
        line += f"; {name}: {count:,} duplicates dropped"
    for name, count in left_out.without_target.items():
        line += f"; {name}: {count:,} without a target token left dropped"
    return line


def _none_too_long(name: str, lengths: np.ndarray, sequence_len: int) -> None:
    """Raises DataError for excess_length: raise."""
    if len(long := np.flatnonzero(lengths > sequence_len)):
        raise DataError(
            f"datasets.{name}: {len(long):,} samples are over sequence_len {sequence_len}, the first is sample {long[0] + 1:,} of "
            f"{lengths[long[0]]:,} tokens; raise sequence_len, or set excess_length to drop, truncate or split"
        )


def _without_duplicates(spans: SampleSpans, samples: Sequence[Samples], names: Sequence[str], left_out: LeftOut) -> SampleSpans:
    """The first of spans with the same tokens and labels."""
    seen: set[bytes] = set()
    first = np.ones(len(spans), bool)
    for i in range(len(spans)):
        ids, labels = (part[spans.start[i] : spans.end[i]] for part in samples[spans.dataset[i]].sample(int(spans.sample[i])))
        digest = xxhash.xxh3_128_digest(ids.tobytes() + labels.tobytes())
        first[i] = digest not in seen
        seen.add(digest)
    _count(spans[~first], names, left_out.duplicates)
    return spans[first]


def _with_targets(spans: SampleSpans, samples: Sequence[Samples], names: Sequence[str], left_out: LeftOut) -> SampleSpans:
    """The spans that teach something, for a step of the others would divide by zero."""
    teaches = targets(spans, samples) > 0
    _count(spans[~teaches], names, left_out.without_target)
    return spans[teaches]


def _count(spans: SampleSpans, names: Sequence[str], counts: dict[str, int]) -> None:
    """Add spans to the counts of their datasets."""
    for i in np.unique(spans.dataset).tolist():
        counts[names[i]] = counts.get(names[i], 0) + int((spans.dataset == i).sum())


def targets(spans: SampleSpans, samples: Sequence[Samples]) -> np.ndarray:
    """Target tokens of each span; its first label never counts, its neighbour would have to predict it."""
    counts = np.zeros(len(spans), np.int64)
    for i, data in enumerate(samples):
        mine = np.flatnonzero(spans.dataset == i)
        counts[mine] = data.trained(spans.sample[mine], spans.start[mine] + 1, spans.end[mine])
    return counts


def _watched_by_dvc(job: Job) -> None:
    graph = (job.project.root / "dvc.yaml").read_text(encoding="utf-8")
    for name in job.datasets:
        if not watched(graph, "pack", f"{ARTIFACTS}/tokens/{name}"):
            raise ParamsError(f"dvc.yaml: pack does not depend on the tokens of the dataset {name}; run `axolotl upgrade`")
