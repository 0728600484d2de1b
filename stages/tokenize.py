"""tokenize: rows → ids and labels of one data set. Lengths are no matter here, sequence_len belongs to pack."""

from axolotl_core.artifacts import manifest
from axolotl_core.tokens.store import Encoder, write_tokens
from stages.run import Job, Result


def run(job: Job) -> Result:
    """tokens/<data set> from raw/<data set> and tokenizer/."""
    raw = job.input("raw")
    encoder = Encoder(raw, manifest.read(raw)["sources"], job.input("tokenizer"), job.params.dataset, job.params.prompt.train_on_inputs)
    facts = write_tokens(job.out, encoder, job.params.machine.dataset_processes or 1)
    told = f"{facts['rows']:,} samples, {facts['tokens']:,} tokens, {facts['trained_tokens'] / facts['tokens']:.0%} trained"
    dropped = ", ".join(f"{count:,} dropped: {reason}" for reason, count in facts["dropped"].items())
    return Result(facts, told + (f" ({dropped}, see rejected.jsonl)" if dropped else ""))
