"""train: the adapter (or all weights) from the packed rows.

Started by torchrun or `accelerate launch -m axolotl_core.stages.train`, it is one of several processes: all train, rank 0 writes.
"""

import importlib
import json
import sys

from axolotl_core import quiet  # noqa: F401
from axolotl_core.batches.rows import open_data
from axolotl_core.checkpoints.store import finish
from axolotl_core.models.pin import open_pinned
from axolotl_core.models.quantize import quantised
from axolotl_core.sources.place import name_to_open
from axolotl_core.stages.graph import ARTIFACTS
from axolotl_core.stages.job import Job, Result
from axolotl_core.tokens.tokenizer import read_tokenizer
from axolotl_core.tracking.csv import EVAL_COLUMNS, TRAIN_COLUMNS, write_csv
from axolotl_core.training import summary
from axolotl_core.training.config import Run, TrainConfig
from axolotl_core.training.train import train_model


def run(job: Job) -> Result:
    """adapter/, the small files of metrics/, plots/train.csv and plots/eval.csv from packed/, tokens/, tokenizer/ and base/."""
    data = open_data(job.input("packed"), job.input("tokens"), read_tokenizer(job.input("tokenizer")))
    pinned = open_pinned(job.input("base"), job.project.root, job.project.stats, job.folder / "base")
    job.check()  # from here on the rows are read through maps of the files that were opened
    sections = {section: getattr(job.params, section) for section in ("model", "adapter", "training", "machine", "tracking", "evaluation")}
    run = Run(
        folder=job.project.scratch / "runs" / job.key,
        out=job.out,
        root=job.project.root,
        identity=job.identity,
        initial_adapter=job.own if job.params.adapter.lora_model_dir else None,
        branch=job.branch,
        restart=job.force,
    )
    config = TrainConfig(**sections, base_name=name_to_open(job.params.model.base_model, f"{ARTIFACTS}/base"))
    trained = train_model(data, pinned, config, run)
    if job.also:
        write_csv(job.also["plots/train.csv"], trained.log, TRAIN_COLUMNS)
        write_csv(job.also["plots/eval.csv"], trained.log, EVAL_COLUMNS)
        compared = summary.compared(trained.metrics, trained.validation, data.target_tokens / data.tokens)
        for name, found in (("summary", compared), ("train", dict(sorted(trained.metrics.items()))), ("held_out", trained.validation)):
            job.also[f"metrics/{name}.json"].write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    facts = {"kind": trained.kind, "trained_parameters": trained.metrics["trained_parameters"]}
    if quantised(job.params.model):  # the others are run in the dtype of their files
        facts["base_dtype"] = trained.base_dtype
    return Result(facts, summary.summary_line(trained.metrics), lambda: finish(run.folder))


if __name__ == "__main__":
    importlib.import_module("axolotl_core.cli.main").main(["stage", "train", "--only", *sys.argv[1:]])
