"""The model card: what the model is, and its lineage from the rows on."""

from collections.abc import Sequence
from typing import Any

from axolotl_core.params.datasets import Dataset

TEMPLATE = """---
library_name: transformers
pipeline_tag: text-generation
base_model: {base_model}
---

# {title}

{kind} of `{base_model}`, {steps} steps on {rows} rows of training.
{losses}{notes}
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")
```

## Data

| dataset | source | format | content |
|---|---|---|---|
{data}

## Lineage

The same keys mean the same stage, options and input contents; `lineage.json` holds them whole.

| artifact | key | content |
|---|---|---|
{lineage}
"""


def write_card(base_model: str, metrics: dict[str, Any], records: dict[str, dict[str, Any]], notes: Sequence[str] = ()) -> str:
    """README.md. records: artifact → its key file, such as "raw/faq" or "adapter"; metrics: metrics/train.json; notes: how to prompt it."""
    data = []
    for artifact, record in records.items():
        kind, _, name = artifact.partition("/")
        if kind == "raw":
            path, how = record["params"]["datasets"]["path"], _format(records[f"tokens/{name}"]["params"]["datasets"])
            data.append(f"| {name} | `{path}` | {how} | `{record['output'][:12]}` |")
    lineage = [f"| {artifact} | `{record['key'][:12]}` | `{record['output'][:12]}` |" for artifact, record in records.items()]
    adapter = records["adapter"]["params"]["adapter"].get("adapter")
    kind = "A LoRA fine-tune, merged," if adapter in ("lora", "qlora") else "A full fine-tune"
    losses = ""
    if metrics["eval_loss_before"] is not None and metrics["eval_loss_after"] is not None:
        losses = f"\nValidation loss {metrics['eval_loss_before']:.4f} before and {metrics['eval_loss_after']:.4f} after training.\n"
    return TEMPLATE.format(
        title=f"{base_model.rstrip('/').rpartition('/')[2]}, fine-tuned",
        base_model=base_model,
        kind=kind,
        steps=f"{metrics['steps']:,}",
        rows=f"{metrics['rows']:,}",
        losses=losses,
        notes="".join(f"\nNote: {note}.\n" for note in notes),
        data="\n".join(data),
        lineage="\n".join(lineage),
    )


def _format(data: dict[str, Any]) -> str:
    kind = data.get("type", Dataset.model_fields["type"].default)
    return kind if isinstance(kind, str) else "defined in params.yaml"
