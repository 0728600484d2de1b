"""Training on the embedded default against a bare PyTorch loop over the same rows.

    python benchmarks/train_step.py      where pack and fetch-model have run, such as after `make quickstart`

The bare loop is what one would write in twenty lines: the same model, LoRA, packed rows and optimizer, logits for
every token. Steps of the two alternate, so that what else the machine does meets both; medians are compared.
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch
from machine import describe, table

from axolotl_core.adapters import lora
from axolotl_core.artifacts import manifest
from axolotl_core.artifacts.stats import StatCache
from axolotl_core.batches.batch import Batch
from axolotl_core.batches.rows import open_rows
from axolotl_core.distributed.start import start_strategy
from axolotl_core.models.load import load_model
from axolotl_core.models.pin import open_pinned
from axolotl_core.models.precision import Precision
from axolotl_core.objectives.sft import Objective
from axolotl_core.optim.optimizers import make_optimizer
from axolotl_core.params.load import load
from axolotl_core.tokens.tokenizer import read_tokenizer
from axolotl_core.training.step import train_step

STEPS, WARM = 12, 2
ROOT = Path.cwd()
ARTIFACTS = ROOT / "artifacts"


def bare_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batches: list[Batch], device: torch.device) -> float:
    tokens = sum(int((batch.labels_BT != -100).sum()) for batch in batches)
    total = 0.0
    for batch in batches:
        ids, positions, labels = (t.to(device) for t in (batch.ids_BT, batch.positions_BT, batch.labels_BT))
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
        )
        (loss / tokens).backward()
        total += float(loss.detach()) / tokens
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def main() -> None:
    params = load(ROOT / "params.yaml")
    facts, tokenizer = manifest.read(ARTIFACTS / "packed"), read_tokenizer(ARTIFACTS / "tokenizer")
    rows = open_rows(ARTIFACTS / "packed", "train", ARTIFACTS / "tokens", facts, tokenizer.pad_id)
    home = Path(tempfile.mkdtemp())
    weights = open_pinned(ARTIFACTS / "base", ROOT, StatCache(home / "stat.json"), home / "base").folder
    precision = Precision("fp32", torch.float32, torch.float32)
    sides = {}
    for name in ("bare", "ours"):
        torch.manual_seed(0)
        loaded = load_model(weights, params.machine, vocabulary=tokenizer.size, packed=True, dtype=torch.float32)
        model = lora.attach(loaded.model, params.adapter).train()
        optimizer = make_optimizer(model.named_parameters(), params.training, params.adapter)
        sides[name] = (model, optimizer)
    sides["bare"][0].get_base_model().set_attn_implementation("sdpa")  # transformers' own choice
    device = loaded.model.device
    strategy = start_strategy(params.machine, precision, ROOT, device=device, max_grad_norm=1.0, model=loaded.model)
    strategy.prepare(Objective(sides["ours"][0], loaded.spec).train(), lambda: sides["ours"][1])
    seconds: dict[str, list[float]] = {"bare": [], "ours": []}
    losses: dict[str, list[float]] = {"bare": [], "ours": []}
    tokens = 0
    for step in range(STEPS + WARM):
        chosen = [(step + i) % len(rows) for i in range(2)]
        batches = [rows.batch([row]) for row in chosen]
        tokens = sum(batch.ids_BT.numel() for batch in batches)
        for name in ("bare", "ours") if step % 2 else ("ours", "bare"):
            started = time.perf_counter()
            if name == "bare":
                losses[name].append(bare_step(*sides[name], batches, device))
            else:
                losses[name].append(train_step(strategy, rows, chosen, step=step + 1, seed=0, micro_batch_size=1).result().loss)
            seconds[name].append(time.perf_counter() - started)
    bare_s, ours_s = (statistics.median(seconds[name][WARM:]) for name in ("bare", "ours"))
    apart = max(abs(a - b) for a, b in zip(losses["bare"], losses["ours"], strict=True))
    describe("torch", "transformers", "peft", "accelerate")
    print(f"{params.model.base_model}, {params.adapter.adapter}, {tokens:,} tokens per step, {torch.get_num_threads()} threads")
    print(f"median of {STEPS} steps; largest difference of the losses {apart:.1e}\n")
    table(
        ["what", "seconds a step", "tokens/s", "÷ bare loop"],
        [
            ["bare PyTorch loop", f"{bare_s:.2f}", f"{tokens / bare_s:.0f}", "1.00"],
            ["axolotl's step", f"{ours_s:.2f}", f"{tokens / ours_s:.0f}", f"{bare_s / ours_s:.2f}"],
        ],
    )


if __name__ == "__main__":
    main()
