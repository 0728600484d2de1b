"""export: the merged model with its tokenizer and a card, ready to be loaded, copied or published."""

import json
import shutil

from axolotl_core.artifacts import record
from axolotl_core.artifacts.link import link
from axolotl_core.artifacts.manifest import FILE
from axolotl_core.progress import progress
from axolotl_core.prompts.resolve import relocated
from axolotl_core.release.card import write_card
from axolotl_core.release.prompting import prompting_of, write_special_tokens
from axolotl_core.stages.job import Job, Result
from axolotl_core.tokens.tokenizer import read_tokenizer


def run(job: Job) -> Result:
    """export/ from merged/, tokenizer/, metrics/train.json and the adapter's provenance."""
    files = [file for name in ("merged", "tokenizer") for file in sorted(job.input(name).iterdir()) if file.name != FILE]
    for file in progress(files, len(files), "export", "files"):
        same = link if file.suffix == ".safetensors" else shutil.copyfile  # small files are changed below
        same(file, job.out / file.name)
    tokenizer = read_tokenizer(job.input("tokenizer"))
    datasets = {name: relocated(data, job.project.root, job.own) for name, data in job.params.datasets.items()}
    prompting = prompting_of(datasets, tokenizer, job.own)
    if prompting.own and prompting.source:
        (job.out / "chat_template.jinja").write_text(prompting.source, encoding="utf-8")
    write_special_tokens(job.out, tokenizer, prompting)
    notes = list(prompting.notes)
    if prompting.not_exported:
        names = ", ".join(prompting.not_exported)
        notes.append(f"training gave the chat template {names} (chat_template_kwargs); give it the same in apply_chat_template")
    records = record.lineage("adapter", record.read(job.input("keys/adapter.json")))
    (job.out / "lineage.json").write_text(json.dumps(records, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    metrics = json.loads(job.input("metrics/train.json").read_text(encoding="utf-8"))
    base_model = records["base"]["params"]["model"]["base_model"]
    (job.out / "README.md").write_text(write_card(base_model, metrics, records, notes), encoding="utf-8")
    line = f"{job.project.artifacts.name}/export, loads with AutoModelForCausalLM.from_pretrained"
    return Result({"base_model": base_model}, "\n  ".join([line, *notes]))
