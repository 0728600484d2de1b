"""pack: lengths of all samples → which of them share a row, for training and for evaluation."""

from typing import Any

from axolotl_core.artifacts import manifest
from axolotl_core.errors import DataError
from axolotl_core.packing.index import write_rows
from axolotl_core.packing.plan import Pieces, fit, hold_out, keep_shard, lay_out, split
from axolotl_core.params.packing import Packing
from axolotl_core.tokens.samples import Samples
from stages.job import Job, Result


def run(job: Job) -> Result:
    """packed/ from tokens/ of every data set that params.yaml names."""
    packing: Packing = job.params.packing
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
    train, held_out = hold_out(pieces, packing.val_set_size, packing.shuffle_seed)
    eval_packed = packing.sample_packing if packing.eval_sample_packing is None else packing.eval_sample_packing
    facts: dict[str, Any] = {
        "datasets": list(job.datasets),
        "sequence_len": packing.sequence_len,
        "pad_to_sequence_len": packing.pad_to_sequence_len,
        "too_long": too_long,
    }
    for part, chosen, packed in (("train", train, packing.sample_packing), ("eval", held_out, eval_packed)):
        chosen = split(chosen, packing.sequence_len)
        rows = lay_out(chosen, packing.sequence_len, packed)
        write_rows(job.out / part, rows)
        facts[part] = {"rows": len(rows), "samples": len(chosen), "tokens": int(chosen.lengths.sum())}
        facts[part]["trained_tokens"] = _trained(chosen, samples)
    if not facts["train"]["trained_tokens"]:
        raise DataError(f"no token is trained: sequence_len {packing.sequence_len} cuts every answer off; raise it")
    used = facts["train"]["tokens"] / (facts["train"]["rows"] * packing.sequence_len)
    told = f"{facts['train']['rows']:,} rows of {packing.sequence_len} from {len(train):,} samples ({used:.1%} filled), "
    told += f"{facts['eval']['rows']:,} rows held out"
    for name, gone in too_long.items():
        fate = {"drop": "dropped", "truncate": "cut", "split": "split"}[gone["fate"]]
        told += f"; {name}: {gone['samples']:,} samples over {packing.sequence_len} tokens {fate}"
    return Result(facts, told)


def _trained(pieces: Pieces, samples: list[Samples]) -> int:
    """Tokens with a label; a piece's first label never counts, its neighbour would have to predict it."""
    total = 0
    for i, data in enumerate(samples):
        mine = pieces[pieces.dataset == i]
        total += int(data.trained(mine.sample, mine.start + 1, mine.end).sum())
    return total
