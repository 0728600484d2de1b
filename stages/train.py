"""train: the adapter (or the whole model) from the packed rows."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from axolotl_core.adapters import lora
from axolotl_core.artifacts import manifest
from axolotl_core.evaluation.measure import measure
from axolotl_core.models.load import device_of, load_model
from axolotl_core.models.packing import self_test
from axolotl_core.models.pin import weights_folder
from axolotl_core.params.machine import Machine
from axolotl_core.tokens.tokenizer import read_tokenizer
from axolotl_core.training.batches import open_rows
from axolotl_core.training.loop import seed_everything, train
from axolotl_core.training.plan import Plan
from axolotl_core.training.precision import choose
from axolotl_core.training.track import EVAL_COLUMNS, TRAIN_COLUMNS, write_csv
from stages.job import Job, Result


def run(job: Job) -> Result:
    """adapter/, metrics/train.json, plots/train.csv and plots/eval.csv from packed/, tokens/, tokenizer/ and base/."""
    training, machine, adapter = job.params.training, job.params.machine, job.params.adapter
    facts = manifest.read(job.input("packed"))
    tokenizer = read_tokenizer(job.input("tokenizer"))
    sources = [open_rows(job.input("packed"), part, job.input("tokens"), facts, tokenizer.pad_id) for part in ("train", "eval")]
    rows, held_out = sources
    precision = choose(training.bf16, device_of(machine))
    torch.backends.cuda.matmul.allow_tf32 = bool(machine.tf32)
    packed = any(part["samples"] > part["rows"] for part in (facts["train"], facts["eval"]))
    frozen = torch.bfloat16 if precision == "bf16" and adapter.adapter else torch.float32
    base = weights_folder(job.input("base"), job.project.root, job.project.stats)
    loaded = load_model(base, machine, vocabulary=tokenizer.size, packed=packed, dtype=frozen)
    if packed:
        self_test(loaded.model, loaded.how)
    seed_everything(training.seed)
    model: Any = lora.attach(loaded.model, adapter) if adapter.adapter else loaded.model
    if machine.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    folder = job.project.scratch / "runs" / job.key
    plan = Plan(len(rows), training.batch_size, training.num_epochs, training.seed, training.max_steps)
    print_arithmetic(plan, machine, facts, model, loaded.attention, precision)
    accelerator = Accelerator(mixed_precision="bf16" if precision == "bf16" else "no", cpu=loaded.model.device.type == "cpu")

    def held_out_loss(model: Any) -> float:
        with accelerator.autocast():
            return float(measure(model, held_out, facts["datasets"], loaded.how, machine.micro_batch_size)["loss"])

    measured = held_out_loss if facts["eval"]["trained_tokens"] else None
    outcome = train(
        model,
        rows,
        plan,
        folder,
        accelerator,
        how=loaded.how,
        training=training,
        machine=machine,
        tracking=job.params.tracking,
        evaluate=measured,
    )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    save(model, job, base)
    write_csv(job.also["plots/train.csv"], outcome.log, TRAIN_COLUMNS)
    write_csv(job.also["plots/eval.csv"], outcome.log, EVAL_COLUMNS)
    metrics = summary(outcome.log) | {
        "steps": plan.total,
        "rows": plan.rows,
        "batch_size": plan.batch_size,
        "trained_parameters": trained,
        "precision": precision,
        "attention": loaded.attention,
        "tokens_per_s": outcome.tokens_per_s,
    }
    job.also["metrics/train.json"].write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    told = f"{plan.total} steps, loss {metrics['loss_first']:.3f} → {metrics['loss_last']:.3f}"
    if metrics["eval_loss_after"] is not None and metrics["eval_loss_before"] is not None:
        told += f", held out {metrics['eval_loss_before']:.3f} → {metrics['eval_loss_after']:.3f}"
    kind = adapter.adapter or "full"
    return Result({"kind": kind, "trained_parameters": trained}, told, lambda: shutil.rmtree(folder, ignore_errors=True))


def print_arithmetic(plan: Plan, machine: Machine, facts: dict[str, Any], model: Any, attention: str, precision: str) -> None:
    """What the run will be, before the first step."""
    micro = min(machine.micro_batch_size, plan.batch_size)
    print(f"  {micro} rows × {-(-plan.batch_size // micro)} micro-batches = {plan.batch_size} rows a step")
    print(
        f"  {plan.rows:,} rows ÷ {plan.batch_size} × {plan.epochs:g} epochs = {plan.total:,} steps; "
        f"{facts['train']['trained_tokens']:,} of {facts['train']['tokens']:,} tokens an epoch are trained"
    )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    every = sum(p.numel() for p in model.parameters())
    print(f"  {trained:,} of {every:,} parameters trained; {precision}, {attention} attention, on {model.device.type}", flush=True)


def save(model: Any, job: Job, base: Path) -> None:
    """The adapter, or a full model in the base's own dtype."""
    if job.params.adapter.adapter:
        lora.save(model, job.out, job.params.model.base_model)
        return
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    dtype = getattr(torch, config.get("dtype") or config.get("torch_dtype") or "float32")
    model.to(dtype).save_pretrained(job.out)
    for file in job.out.glob("*.safetensors"):
        file.chmod(0o644)


def summary(log: list[dict[str, Any]]) -> dict[str, Any]:
    """First and last losses of the log; None where none was taken."""
    losses = [row["loss"] for row in log if "loss" in row]
    held_out = [(row["step"], row["eval_loss"]) for row in log if "eval_loss" in row]
    before = [loss for step, loss in held_out if step == 0]
    return {
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "eval_loss_before": before[0] if before else None,
        "eval_loss_after": held_out[-1][1] if held_out else None,
    }
