"""evaluate: the model before and after training, on the validation rows and in replies to their prompts."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from axolotl_core.adapters.trained import base_dtype, load_to_run, load_trained
from axolotl_core.artifacts import manifest
from axolotl_core.batches.rows import Data, open_data
from axolotl_core.evaluation.evaluate import evaluate_rows
from axolotl_core.evaluation.replies import Prompt, prompts, replies
from axolotl_core.models.embeddings import embedding_rows
from axolotl_core.models.load import Loaded
from axolotl_core.models.pin import open_pinned
from axolotl_core.stages.job import Job, Result
from axolotl_core.tokens.tokenizer import read_tokenizer


class Observed(NamedTuple):
    """Of one model: metrics of the validation rows, as `evaluate` gives them, and a reply to each prompt."""

    metrics: dict[str, Any]
    replies: list[str]


def run(job: Job) -> Result:
    """evaluation/report.json and metrics/evaluate.json from adapter/, base/, packed/, tokens/ and tokenizer/.

    The metrics are those of metrics/held_out.json where train has taken them.
    """
    evaluation = job.params.evaluation
    data = open_data(job.input("packed"), job.input("tokens"), read_tokenizer(job.input("tokenizer")))
    chosen = prompts(data.validation if len(data.validation) else data.train, evaluation.eval_table_size)
    taken = json.loads(job.input("metrics/held_out.json").read_text(encoding="utf-8"))

    def observe(loaded: Loaded, when: str) -> Observed:
        loaded.model.eval()
        texts = replies(loaded.model, data.tokenizer, chosen, evaluation.eval_table_max_new_tokens, title=f"replies {when}")
        size = evaluation.eval_batch_size or job.params.machine.micro_batch_size
        return Observed(taken[when] or evaluate_rows(loaded, data.validation, data.names, size, title=f"validation {when}"), texts)

    before, after = _before_and_after(job, data, observe)
    report = {"before": before.metrics, "after": after.metrics, "replies": _table(data, chosen, before.replies, after.replies)}
    (job.out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    metrics = {when: report[when] for when in ("before", "after")}
    job.also["metrics/evaluate.json"].write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    return Result({"replies": len(chosen), "tokens": after.metrics["tokens"]}, summary_line(before.metrics, after.metrics))


def _before_and_after(job: Job, data: Data, observe: Callable[[Loaded, str], Observed]) -> tuple[Observed, Observed]:
    model, machine, adapter = job.params.model, job.params.machine, job.input("adapter")
    pinned = open_pinned(job.input("base"), job.project.root, job.project.stats, job.folder / "base")
    settings: dict[str, Any] = {"vocabulary": embedding_rows(data.tokenizer.size, model), "packed": data.validation_packed}
    if manifest.read(adapter)["kind"] == "full":  # one after the other: two full models may not fit the device
        before = observe(load_to_run(pinned.folder, machine, quantise=model, dtype=base_dtype(adapter), **settings), "before")
        after = observe(load_trained(adapter, pinned.folder, machine, quantise=model, **settings), "after")
    else:
        tuned = load_trained(adapter, pinned.folder, machine, quantise=model, **settings)
        after = observe(tuned, "after")
        with tuned.model.disable_adapter():
            before = observe(tuned, "before")
    pinned.check()
    return before, after


def _table(data: Data, chosen: list[Prompt], before: list[str], after: list[str]) -> list[dict[str, str]]:
    text = data.tokenizer.text
    return [
        {"dataset": data.names[prompt.dataset], "prompt": text(prompt.ids), "expected": text(prompt.expected), "before": b, "after": a}
        for prompt, b, a in zip(chosen, before, after, strict=True)
    ]


def summary_line(before: dict[str, Any], after: dict[str, Any]) -> str:
    """A line for the user."""
    if not after["tokens"]:
        return "no validation rows (packing.val_set_size), replies only"
    return (
        f"loss {before['loss']:.3f} → {after['loss']:.3f}, perplexity {before['perplexity']:.2f} → {after['perplexity']:.2f}, "
        f"accuracy {before['accuracy']:.1%} → {after['accuracy']:.1%}"
    )
