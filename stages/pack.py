"""pack: lengths of all samples → which of them share a row, for training and for evaluation."""

import os
from collections.abc import Sequence
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


def run(job: Job) -> Result:
    """packed/ from tokens/ of every dataset that params.yaml names."""
    packing: Packing = job.params.packing
    if "DVC_STAGE" in os.environ:
        _watched_by_dvc(job)
    samples = [Samples(job.input("tokens") / name) for name in job.datasets]
    found, too_long = [], {}
    for i, name in enumerate(job.datasets):
        excess = packing.excess_length
        if excess == "auto":
            excess = manifest.read(job.input("tokens") / name)["excess_length"]
        if excess == "raise":
            _none_too_long(name, samples[i].lengths, packing.sequence_len)
            excess = "drop"
        pieces, long = fit(i, samples[i].lengths, packing.sequence_len, excess)
        found.append(pieces)
        if long:
            too_long[name] = {"samples": long, "fate": excess}
    pieces = keep_shard(SampleSpans.join(found), packing)
    twins: dict[str, int] = {}
    if packing.dataset_exact_deduplication:
        pieces = _without_twins(pieces, samples, job.datasets, twins)
    if len(pieces) == 0:
        raise DataError(
            f"no sample is left to pack: all are longer than sequence_len {packing.sequence_len}; raise it or set excess_length"
        )
    dropped: dict[str, int] = {}
    pieces = _with_targets(pieces, samples, job.datasets, dropped)
    if len(pieces) == 0:
        raise DataError(f"no token is trained: sequence_len {packing.sequence_len} cuts every answer off; raise it")
    try:
        tests = np.isin(pieces.dataset, [i for i, name in enumerate(job.datasets) if job.params.datasets[name].held_out])
        train, held_out = hold_out(pieces[~tests], packing.val_set_size, packing.shuffle_seed if packing.shuffle_merged_datasets else None)
        held_out = SampleSpans.join([held_out, pieces[tests]])
    except DataError as error:
        gone = sum(dropped.values())
        raise DataError(f"{error} ({gone:,} more have no target token within sequence_len)" if gone else str(error)) from None
    eval_packed = packing.sample_packing if packing.eval_sample_packing is None else packing.eval_sample_packing
    facts: dict[str, Any] = {
        "datasets": list(job.datasets),
        "sequence_len": packing.sequence_len,
        "pad_to_sequence_len": packing.pad_to_sequence_len,
        "too_long": too_long,
    }
    for part, chosen, packed in (("train", train, packing.sample_packing), ("eval", held_out, eval_packed)):
        chosen = _with_targets(split(chosen, packing.sequence_len), samples, job.datasets, dropped)
        rows = lay_out(chosen, packing.sequence_len, packed)
        write_rows(job.out / part, rows)
        facts[part] = {"rows": len(rows), "samples": len(chosen), "tokens": int(chosen.lengths.sum())}
        facts[part]["trained_tokens"] = int(targets(chosen, samples).sum())
    if not facts["train"]["rows"]:
        raise DataError(
            f"no token is trained: all that sequence_len {packing.sequence_len} leaves of the answers is held out; raise it, or lower "
            "val_set_size"
        )
    if dropped:
        facts["without_target"] = dropped
    if twins:
        facts["twins"] = twins
    used = facts["train"]["tokens"] / (facts["train"]["rows"] * packing.sequence_len)
    message = f"{facts['train']['rows']:,} rows of {packing.sequence_len} from {len(train):,} samples ({used:.1%} filled), "
    message += f"{facts['eval']['rows']:,} validation rows"
    if packing.val_set_size and not facts["eval"]["rows"]:
        message += f" (val_set_size {packing.val_set_size:g} of {len(pieces):,} samples rounds to 0)"
    for name, gone in too_long.items():
        fate = {"drop": "dropped", "truncate": "cut", "split": "split"}[gone["fate"]]
        message += f"; {name}: {gone['samples']:,} samples over {packing.sequence_len} tokens {fate}"
    for name, count in twins.items():
        message += f"; {name}: {count:,} samples that were there already dropped"
    for name, count in dropped.items():
        message += f"; {name}: {count:,} without a target token left dropped"
    return Result(facts, message)


def _none_too_long(name: str, lengths: np.ndarray, sequence_len: int) -> None:
    """Raises DataError for excess_length: raise."""
    if len(long := np.flatnonzero(lengths > sequence_len)):
        raise DataError(
            f"datasets.{name}: {len(long):,} samples are over sequence_len {sequence_len}, the first is sample {long[0] + 1:,} of "
            f"{lengths[long[0]]:,} tokens; raise sequence_len, or set excess_length to drop, truncate or split"
        )


def _without_twins(pieces: SampleSpans, samples: Sequence[Samples], names: Sequence[str], twins: dict[str, int]) -> SampleSpans:
    """The first of pieces with the same tokens and labels; adds to the count of the others by dataset."""
    seen: set[bytes] = set()
    first = np.ones(len(pieces), bool)
    for i in range(len(pieces)):
        ids, labels = (part[pieces.start[i] : pieces.end[i]] for part in samples[pieces.dataset[i]].sample(int(pieces.sample[i])))
        digest = xxhash.xxh3_128_digest(ids.tobytes() + labels.tobytes())
        first[i] = digest not in seen
        seen.add(digest)
    for i in np.unique(pieces.dataset[~first]).tolist():
        twins[names[i]] = int((pieces.dataset[~first] == i).sum())
    return pieces[first]


def _watched_by_dvc(job: Job) -> None:
    graph = (job.project.root / "dvc.yaml").read_text(encoding="utf-8")
    for name in job.datasets:
        if not watched(graph, "pack", f"{ARTIFACTS}/tokens/{name}"):
            raise ParamsError(f"dvc.yaml: pack does not depend on the tokens of the dataset {name}; run `axolotl upgrade`")


def targets(pieces: SampleSpans, samples: Sequence[Samples]) -> np.ndarray:
    """Target tokens of each piece; its first label never counts, its neighbour would have to predict it."""
    counts = np.zeros(len(pieces), np.int64)
    for i, data in enumerate(samples):
        mine = np.flatnonzero(pieces.dataset == i)
        counts[mine] = data.trained(pieces.sample[mine], pieces.start[mine] + 1, pieces.end[mine])
    return counts


def _with_targets(pieces: SampleSpans, samples: Sequence[Samples], names: Sequence[str], dropped: dict[str, int]) -> SampleSpans:
    """The pieces that teach something, for a step of the others would divide by zero; adds to the count of the rest by dataset."""
    teaches = targets(pieces, samples) > 0
    for i in np.unique(pieces.dataset[~teaches]).tolist():
        dropped[names[i]] = dropped.get(names[i], 0) + int((pieces.dataset[~teaches] == i).sum())
    return pieces[teaches]
