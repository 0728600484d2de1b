"""LoRA through peft."""

import json
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model

from axolotl_core.errors import ModelError
from axolotl_core.params.adapter import Adapter

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def attach(model: Any, adapter: Adapter) -> PeftModel:
    """Freeze the model and put fresh updates beside the target modules; they start as zero.

    Raises ModelError: a target or module name that the model lacks, a family without usual targets.
    """
    targets: Any = list(adapter.lora_target_modules)
    if adapter.lora_target_linear:
        targets = "all-linear" if not targets else sorted({*targets, *_linear(model)})
    config = LoraConfig(
        r=adapter.lora_r,
        lora_alpha=adapter.lora_alpha,
        lora_dropout=adapter.lora_dropout,
        target_modules=targets or None,
        modules_to_save=list(adapter.lora_modules_to_save) or None,
        fan_in_fan_out=adapter.lora_fan_in_fan_out,
        bias="none",
        task_type="CAUSAL_LM",
    )
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    for option in ("lora_target_modules", "lora_modules_to_save"):
        for name in getattr(adapter, option):
            if name.rpartition(".")[2] not in names:
                known = ", ".join(sorted(_linear(model)))
                raise ModelError(f"adapter.{option}: the model has no module '{name}'; its linear modules are {known}")
    try:
        attached = get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(f"adapter: {' '.join(str(error).split())}; set lora_target_linear: true or lora_target_modules") from None
    for parameter in attached.parameters():
        if parameter.requires_grad:  # bf16 would round most updates of lora_modules_to_save away
            parameter.data = parameter.data.float()
    return attached


def _linear(model: Any) -> set[str]:
    """Last names of all linear modules but the output layer; Conv1D of GPT-2 is linear too."""
    output = model.get_output_embeddings()
    kinds = ("Linear", "Conv1D")
    return {n.rpartition(".")[2] for n, m in model.named_modules() if type(m).__name__.endswith(kinds) and m is not output}


def save(model: PeftModel, out: Path, base_model: str) -> None:
    """adapter_config.json and adapter_model.safetensors, the same bytes for the same weights."""
    model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)
    config = json.loads((out / CONFIG).read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base_model
    for name in ("target_modules", "modules_to_save"):  # sets, whose order Python draws anew for each process
        if isinstance(config[name], list):
            config[name].sort()
    (out / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (out / WEIGHTS).chmod(0o644)


def apply(model: Any, folder: Path) -> PeftModel:
    """The model with the updates of `folder` beside it. Raises ModelError when they do not fit it."""
    try:
        return PeftModel.from_pretrained(model, str(folder))
    except (RuntimeError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: the adapter does not fit the base model: {' '.join(str(error).split())[:300]}") from None
