"""evaluate: the model before and after training, on the held-out rows and in replies to their prompts."""

import json
from functools import partial
from typing import Any

from axolotl_core.adapters.trained import load_trained
from axolotl_core.artifacts import manifest
from axolotl_core.evaluation.measure import measure
from axolotl_core.evaluation.replies import prompts, reply, stops_of
from axolotl_core.models.load import Loaded, embedding_rows, load_model
from axolotl_core.models.pin import open_pinned
from axolotl_core.progress import progress
from axolotl_core.tokens.tokenizer import read_tokenizer
from axolotl_core.training.batches import open_rows
from axolotl_core.training.loss import losses
from stages.job import Job, Result


def run(job: Job) -> Result:
    """evaluation/report.json and metrics/evaluate.json from adapter/, base/, packed/, tokens/ and tokenizer/.

    The numbers of the validation rows are those of metrics/held_out.json where train has taken them.
    """
    evaluation, machine = job.params.evaluation, job.params.machine
    facts = manifest.read(job.input("packed"))
    tokenizer = read_tokenizer(job.input("tokenizer"))
    held_out, train = (open_rows(job.input("packed"), part, job.input("tokens"), facts, tokenizer.pad_id) for part in ("eval", "train"))
    asked = prompts(held_out if len(held_out) else train, evaluation.eval_table_size)
    pinned = open_pinned(job.input("base"), job.project.root, job.project.stats, job.folder / "base")
    base = pinned.folder
    packed = facts["eval"]["samples"] > facts["eval"]["rows"]
    settings: dict[str, Any] = {"vocabulary": embedding_rows(tokenizer.size, job.params.model), "packed": packed}

    measured = json.loads(job.input("metrics/held_out.json").read_text(encoding="utf-8"))

    def numbers(loaded: Loaded, when: str) -> dict[str, Any]:
        """Of the validation rows: those that train has taken of the same weights, else measured here."""
        if measured[when] is not None:
            return dict(measured[when])
        size = evaluation.eval_batch_size or machine.micro_batch_size
        each = partial(losses, loaded.model.eval(), how=loaded.how)
        batches = (batch.place(loaded.model.device) for batch in held_out.batches(range(len(held_out)), size))
        found = measure(each, progress(batches, -(-len(held_out) // size), f"validation {when}"), facts["datasets"])
        assert found is not None, "nobody stops it"
        return found

    def look(loaded: Loaded, when: str) -> dict[str, Any]:
        loaded.model.eval()
        ends: dict[str, Any] = {"stops": stops_of(loaded.model, tokenizer, asked), "pad_id": tokenizer.pad_id}
        most = evaluation.eval_table_max_new_tokens
        told = [reply(loaded.model, p.ids, max_new_tokens=most, **ends) for p in progress(asked, len(asked), f"replies {when}", "replies")]
        return {"numbers": numbers(loaded, when), "replies": [tokenizer.text(ids) for ids in told]}

    if manifest.read(job.input("adapter"))["kind"] == "full":  # one after the other: two whole models may not fit the device
        before = look(load_model(base, machine, quantise=job.params.model, **settings), "before")
        after = look(load_trained(job.input("adapter"), base, machine, quantise=job.params.model, **settings), "after")
    else:
        tuned = load_trained(job.input("adapter"), base, machine, quantise=job.params.model, **settings)
        after = look(tuned, "after")
        with tuned.model.disable_adapter():
            before = look(tuned, "before")
    pinned.check()
    replies = [
        {
            "dataset": facts["datasets"][p.dataset],
            "prompt": tokenizer.text(p.ids),
            "expected": tokenizer.text(p.expected),
            "before": b,
            "after": a,
        }
        for p, b, a in zip(asked, before["replies"], after["replies"], strict=True)
    ]
    report = {"before": before["numbers"], "after": after["numbers"], "replies": replies}
    (job.out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    metrics = {when: report[when] for when in ("before", "after")}
    job.also["metrics/evaluate.json"].write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    return Result({"replies": len(replies), "tokens": after["numbers"]["tokens"]}, said(before["numbers"], after["numbers"]))


def said(before: dict[str, Any], after: dict[str, Any]) -> str:
    if not after["tokens"]:
        return "no held-out rows (packing.val_set_size), replies only"
    return (
        f"loss {before['loss']:.3f} → {after['loss']:.3f}, perplexity {before['perplexity']:.2f} → {after['perplexity']:.2f}, "
        f"accuracy {before['accuracy']:.1%} → {after['accuracy']:.1%}"
    )
