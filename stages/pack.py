"""pack: lengths of all samples → which of them share a row, for training and for evaluation."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from axolotl_core.artifacts import manifest
from axolotl_core.errors import DataError, ParamsError
from axolotl_core.packing.index import write_rows
from axolotl_core.packing.plan import Pieces, fit, hold_out, keep_shard, lay_out, split
from axolotl_core.params.packing import Packing
from axolotl_core.tokens.samples import Samples
from stages.graph import ARTIFACTS, watched
from stages.job import Job, Result


def run(job: Job) -> Result:
    """packed/ from tokens/ of every data set that params.yaml names."""
    packing: Packing = job.params.packing
    if "DVC_STAGE" in os.environ:
        _watched_by_dvc(job)
    samples = [Samples(job.input("tokens") / name) for name in job.datasets]
    found, too_long = [], {}
    for i, name in enumerate(job.datasets):
        excess = packing.excess_length
        if excess == "auto":
            excess = manifest.read(job.input("tokens") / name)["excess_length"]
        pieces, long = fit(i, samples[i].lengths, packing.sequence_len, excess)
        found.append(pieces)
        if long:
            too_long[name] = {"samples": long, "fate": excess}
    pieces = keep_shard(Pieces.join(found), packing)
    if len(pieces) == 0:
        raise DataError(
            f"no sample is left to pack: all are longer than sequence_len {packing.sequence_len}; raise it or set excess_length"
        )
    dropped: dict[str, int] = {}
    pieces = _with_targets(pieces, samples, job.datasets, dropped)
    if len(pieces) == 0:
        raise DataError(f"no token is trained: sequence_len {packing.sequence_len} cuts every answer off; raise it")
    try:
        train, held_out = hold_out(pieces, packing.val_set_size, packing.shuffle_seed)
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
    used = facts["train"]["tokens"] / (facts["train"]["rows"] * packing.sequence_len)
    told = f"{facts['train']['rows']:,} rows of {packing.sequence_len} from {len(train):,} samples ({used:.1%} filled), "
    told += f"{facts['eval']['rows']:,} rows held out"
    if packing.val_set_size and not facts["eval"]["rows"]:
        told += f" (val_set_size {packing.val_set_size:g} of {len(pieces):,} samples is none)"
    for name, gone in too_long.items():
        fate = {"drop": "dropped", "truncate": "cut", "split": "split"}[gone["fate"]]
        told += f"; {name}: {gone['samples']:,} samples over {packing.sequence_len} tokens {fate}"
    for name, count in dropped.items():
        told += f"; {name}: {count:,} without a target token left dropped"
    return Result(facts, told)


def _watched_by_dvc(job: Job) -> None:
    graph = (job.project.root / "dvc.yaml").read_text(encoding="utf-8")
    for name in job.datasets:
        if not watched(graph, "pack", f"{ARTIFACTS}/tokens/{name}"):
            raise ParamsError(f"dvc.yaml: pack does not depend on the tokens of the data set {name}; run `axolotl upgrade`")


def targets(pieces: Pieces, samples: Sequence[Samples]) -> np.ndarray:
    """Target tokens of each piece; its first label never counts, its neighbour would have to predict it."""
    counts = np.zeros(len(pieces), np.int64)
    for i, data in enumerate(samples):
        mine = np.flatnonzero(pieces.dataset == i)
        counts[mine] = data.trained(pieces.sample[mine], pieces.start[mine] + 1, pieces.end[mine])
    return counts


def _with_targets(pieces: Pieces, samples: Sequence[Samples], names: Sequence[str], dropped: dict[str, int]) -> Pieces:
    """The pieces that teach something, for a step of the others would divide by zero; adds to the count of the rest by data set."""
    teaches = targets(pieces, samples) > 0
    for i in np.unique(pieces.dataset[~teaches]).tolist():
        dropped[names[i]] = dropped.get(names[i], 0) + int((pieces.dataset[~teaches] == i).sum())
    return pieces[teaches]
