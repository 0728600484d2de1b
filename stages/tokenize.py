"""tokenize: rows → ids and labels of one dataset. Lengths are no matter here, sequence_len belongs to pack."""

import json
import os

from axolotl_core.artifacts import manifest
from axolotl_core.errors import ParamsError
from axolotl_core.prompts.resolve import files_read, relocated
from axolotl_core.stages.graph import watched
from axolotl_core.stages.job import Job, Result
from axolotl_core.tokens.rowcache import RowCache, context_key
from axolotl_core.tokens.store import Encoder, Written, write_tokens


def run(job: Job) -> Result:
    """tokens/<dataset> from raw/<dataset> and tokenizer/, with the mask report and the lengths beside it."""
    raw, data, prompt = job.input("raw"), job.params.dataset, job.params.prompt
    if "DVC_STAGE" in os.environ:
        _watched_by_dvc(job)
    facts = manifest.read(raw)
    copied = relocated(data, job.project.root, job.own)
    encoder = Encoder(raw, facts["sources"], job.input("tokenizer"), copied, prompt.train_on_inputs, job.own)
    processes = job.params.machine.dataset_processes or 1
    cache = row_cache(job)
    written = write_tokens(job.out, encoder, processes, cache, strict=prompt.mask_check == "error", rows_of_all=facts["rows"])
    report = written.report.facts(written.markup)
    masks, lengths = job.also.values()
    masks.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    lengths.write_text(written.report.histogram(), encoding="utf-8")
    return Result(written.facts, summary_line(written, cache.lost), work={"encoded": written.encoded, "reused": written.reused})


def row_cache(job: Job) -> RowCache:
    """The rows that were encoded before in the same way."""
    tokenizer, data = job.input("tokenizer"), job.params.dataset
    identity = {
        "revision": job.step.stage.revision,
        "tokenizer": manifest.artifact_digest(tokenizer),
        "reading": data.reading(),
        "files": [digest for name, digest in sorted(job.identity["inputs"].items()) if name.startswith("format:")],
        "train_on_inputs": job.params.prompt.train_on_inputs,
    }
    name = data.type if isinstance(data.type, str) else "own prompt"
    about = {"dataset": job.step.dataset, "type": name, "tokenizer": identity["tokenizer"][:12]}
    return RowCache(job.project.scratch / "rows" / context_key(identity), about)


def summary_line(written: Written, lost: str | None) -> str:
    """The summary line. lost: why the row cache could not be written."""
    facts = written.facts
    line = f"{facts['rows']:,} samples, {facts['tokens']:,} tokens, {facts['trained_tokens'] / facts['tokens']:.0%} trained"
    line += f"; {written.encoded:,} rows encoded, {written.reused:,} reused"
    dropped = ", ".join(f"{count:,} dropped: {reason}" for reason, count in facts["dropped"].items())
    line += f" ({dropped}, see rejected.jsonl)" if dropped else ""
    line += f"; the row cache could not be written: {lost}" if lost else ""
    refused = written.report.refusal()
    notes = [*written.notes, *([f"warning: {refused}"] if refused else [])]
    return "\n  ".join([line, *notes])


def _watched_by_dvc(job: Job) -> None:
    root = job.project.root
    graph = (root / "dvc.yaml").read_text(encoding="utf-8")
    for file in (os.path.relpath(file, root) for file in files_read(job.params.dataset, root)):
        if not watched(graph, "tokenize", file):
            raise ParamsError(f"{file} decides what becomes of a row, and dvc.yaml does not depend on it; run `axolotl upgrade`")
