"""train: the adapter (or the whole model) from the packed rows.

Started by torchrun or `accelerate launch -m stages.train`, it is one of several processes: all train, rank 0 writes.
"""

import importlib
import json
import sys

from axolotl_core import quiet  # noqa: F401
from axolotl_core.artifacts import manifest
from axolotl_core.models.pin import open_pinned
from axolotl_core.sources.place import name_to_open
from axolotl_core.tokens.tokenizer import read_tokenizer
from axolotl_core.training.batches import Data, open_rows
from axolotl_core.training.checkpoint import finish
from axolotl_core.training.session import Asked, train_model
from axolotl_core.training.summary import compared, said
from axolotl_core.training.track import EVAL_COLUMNS, TRAIN_COLUMNS, write_csv
from stages.graph import ARTIFACTS
from stages.job import Job, Result


def run(job: Job) -> Result:
    """adapter/, the small files of metrics/, plots/train.csv and plots/eval.csv from packed/, tokens/, tokenizer/ and base/."""
    facts, tokenizer = manifest.read(job.input("packed")), read_tokenizer(job.input("tokenizer"))
    rows, held_out = (open_rows(job.input("packed"), part, job.input("tokens"), facts, tokenizer.pad_id) for part in ("train", "eval"))
    packed = any(part["samples"] > part["rows"] for part in (facts["train"], facts["eval"]))
    counts = {name: facts["train"][name] for name in ("tokens", "trained_tokens")}
    new = manifest.read(job.input("tokenizer")).get("new_tokens", ())
    run = job.project.scratch / "runs" / job.key
    pinned = open_pinned(job.input("base"), job.project.root, job.project.stats, job.folder / "base")
    job.check()  # from here on the rows are read through maps of the files that were opened
    trained = train_model(
        Data(rows, held_out, facts["datasets"], packed, tokenizer=tokenizer, new_tokens=new, **counts),
        pinned,
        run,
        job.out,
        Asked(
            **{section: getattr(job.params, section) for section in ("model", "adapter", "training", "machine", "tracking", "evaluation")},
            base_name=name_to_open(job.params.model.base_model, f"{ARTIFACTS}/base"),
        ),
        identity=job.identity,
        root=job.project.root,
        goes_on_from=job.own if job.params.adapter.lora_model_dir else None,
        branch=job.branch,
        anew=job.force,
    )
    if job.also:
        write_csv(job.also["plots/train.csv"], trained.log, TRAIN_COLUMNS)
        write_csv(job.also["plots/eval.csv"], trained.log, EVAL_COLUMNS)
        for name, found in (
            ("summary", compared(trained.metrics, trained.held_out, counts)),
            ("train", dict(sorted(trained.metrics.items()))),
            ("held_out", trained.held_out),
        ):
            job.also[f"metrics/{name}.json"].write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    facts = {"kind": trained.kind, "trained_parameters": trained.metrics["trained_parameters"]}
    return Result(facts, said(trained.metrics), lambda: finish(run))


if __name__ == "__main__":
    importlib.import_module("axolotl_core.cli.main").main(["stage", "train", "--only", *sys.argv[1:]])
