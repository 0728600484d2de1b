"""export: the merged model with its tokenizer and a card, ready to be loaded, copied or published."""

import json
import shutil
from pathlib import Path
from typing import Any

from axolotl_core.artifacts.manifest import FILE
from axolotl_core.release.card import write_card
from stages.run import Job, Result

RECORDS = ("keys/raw", "keys/tokens", "keys/packed.json", "keys/base.json", "keys/adapter.json")


def run(job: Job) -> Result:
    """export/ from merged/, tokenizer/, metrics/train.json and the key files of all that came before."""
    for name in ("merged", "tokenizer"):
        for file in sorted(job.input(name).iterdir()):
            if file.name != FILE:
                shutil.copyfile(file, job.out / file.name)
    records = {name: record for path in RECORDS for name, record in _records(job.input(path))}
    (job.out / "lineage.json").write_text(json.dumps(records, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    metrics = json.loads(job.input("metrics/train.json").read_text(encoding="utf-8"))
    base_model = records["base"]["params"]["model"]["base_model"]
    (job.out / "README.md").write_text(write_card(base_model, metrics, records), encoding="utf-8")
    return Result({"base_model": base_model}, f"{job.project.artifacts.name}/export, loads with AutoModelForCausalLM.from_pretrained")


def _records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """`keys/adapter.json` → [("adapter", …)]; the folder `keys/raw` → one ("raw/<data set>", …) each."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    return [(f"{path.name}/{file.stem}" if path.is_dir() else file.stem, json.loads(file.read_text(encoding="utf-8"))) for file in files]
