"""axolotl against Hugging Face's Trainer with peft: the same packed rows, model, dtype and optimizer.

    python benchmarks/trainer.py smollm2        the default pipeline's model and rows, where `make quickstart` has run
    python benchmarks/trainer.py llama-300m     a random llama, 128,256 words, 1,024 tokens a row
    python benchmarks/trainer.py llama-1b       a random llama on a GPU: bf16, rows of 4,096 tokens

Each side runs in processes of its own, in turns, so that peak memory is its own and the machine's moods meet both; a
ratio is that of the medians of all steps. `unpacked` is the Trainer on one sample a row, padded to the longest of a
batch, with as many samples a step: how most people run it. Needs torch, transformers, accelerate, peft, pyarrow and
xxhash; bitsandbytes for qlora.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


@dataclass(frozen=True)
class Setup:
    """rows, tokens: of a step; methods; steps measured a process after `warm` ones; turns: processes a side."""

    rows: int
    tokens: int
    methods: tuple[str, ...]
    steps: int
    warm: int
    turns: int
    config: dict[str, Any] | None = None


SHAPE = {"vocab_size": 128_256, "max_position_embeddings": 8192, "tie_word_embeddings": True}
SETUPS = {
    "smollm2": Setup(2, 512, ("lora", "qlora", "full"), 4, 1, 2),
    "llama-300m": Setup(
        1,
        1024,
        ("lora", "full"),
        3,
        1,
        2,
        SHAPE
        | {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 16, "num_key_value_heads": 8},
    ),
    "llama-1b": Setup(
        4,
        4096,
        ("lora", "full"),
        12,
        4,
        2,
        SHAPE
        | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8},
    ),
}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LEARNING_RATE = 1e-4


class Samples:
    """Random tokens in samples of log-normal length, the first third of each untrained."""

    def __init__(self, count: int, tokens: int, vocabulary: int) -> None:
        draw = np.random.default_rng(0)
        lengths = np.clip(draw.lognormal(np.log(tokens / 6), 0.7, count), 16, tokens).astype(int)
        self.ids = [draw.integers(10, vocabulary, n).astype(np.int32) for n in lengths]

    def sample(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        labels = self.ids[i].copy()
        labels[: len(labels) // 3] = -100
        return self.ids[i], labels


def without_pydantic() -> None:
    """pydantic reads params.yaml; where it is not installed, plain defaults will do here."""
    try:
        import pydantic  # noqa: F401
    except ImportError:

        class Base:
            def __init__(self, **values: Any) -> None:
                self.__dict__.update(values)

        stub: Any = SimpleNamespace(BaseModel=Base, ConfigDict=dict, Field=lambda *a, **k: None)
        sys.modules["pydantic"] = stub


def load(name: str, method: str) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" and method != "full" else torch.float32
    torch.manual_seed(0)
    if name != "smollm2":
        model = LlamaForCausalLM._from_config(LlamaConfig(**SETUPS[name].config), dtype=dtype, attn_implementation="sdpa").to(device)
    else:
        quantised = {}
        if method == "qlora":
            nf4 = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
            )
            quantised = {"quantization_config": nf4, "device_map": {"": device}}
        model = AutoModelForCausalLM.from_pretrained(ROOT / "artifacts" / "base", dtype=dtype, attn_implementation="sdpa", **quantised)
    model.config.use_cache = False
    if method == "full":
        return model
    from peft import LoraConfig, get_peft_model

    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    attached = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS, task_type="CAUSAL_LM"))
    for parameter in attached.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return attached


def rows_of(name: str) -> Any:
    from axolotl_core.batches.rows import RowSource, open_rows
    from axolotl_core.packing.plan import fit, lay_out

    setup = SETUPS[name]
    if name == "smollm2":
        from axolotl_core.artifacts import manifest

        artifacts = ROOT / "artifacts"
        return open_rows(artifacts / "packed", "train", artifacts / "tokens", manifest.read(artifacts / "packed"), 0)
    samples = Samples(60 * setup.rows, setup.tokens, setup.config["vocab_size"])
    pieces, _ = fit(0, np.array([len(ids) for ids in samples.ids]), setup.tokens, "drop")
    return RowSource(lay_out(pieces, setup.tokens, True), [samples], 0, setup.tokens, False)  # type: ignore[list-item]


def numbers(setup: Setup, rows: Any) -> list[list[int]]:
    """Rows of each step."""
    return [[(step * setup.rows + i) % len(rows) for i in range(setup.rows)] for step in range(setup.steps + setup.warm)]


def ours(name: str, method: str) -> dict[str, Any]:
    without_pydantic()
    from axolotl_core.distributed.start import start_strategy
    from axolotl_core.models.forward import ForwardSpec, unwrap
    from axolotl_core.models.precision import Precision
    from axolotl_core.models.self_test import splits
    from axolotl_core.objectives.sft import Objective
    from axolotl_core.optim.groups import set_lr_and_betas
    from axolotl_core.optim.optimizers import make_optimizer
    from axolotl_core.params.adapter import Adapter
    from axolotl_core.params.machine import Machine
    from axolotl_core.params.training import Training
    from axolotl_core.training.step import train_step

    setup, model, rows = SETUPS[name], load(name, method), rows_of(name)
    device = next(model.parameters()).device
    autocast = torch.bfloat16 if device.type == "cuda" else None
    precision = Precision("", torch.float32, torch.float32, autocast)
    strategy = start_strategy(Machine(), precision, ROOT, device=device, max_grad_norm=1.0, model=unwrap(model))
    how = ForwardSpec(split=splits(unwrap(model), ForwardSpec()))
    fused = "adamw_torch_fused" if device.type == "cuda" else "adamw_torch"
    training = Training(optimizer=fused, learning_rate=LEARNING_RATE)
    strategy.prepare(Objective(model, how, autocast).train(), make_optimizer(model.named_parameters(), training, Adapter()))
    found, seconds, tokens, trained = [], [], [], []
    waiting: Any = None
    for step, chosen in enumerate(numbers(setup, rows), 1):
        started = time.perf_counter()
        set_lr_and_betas(strategy.optimizer, LEARNING_RATE, None)
        report = train_step(strategy, rows, chosen, step=step, seed=0, micro_batch_size=1)
        if waiting is not None or report.on_device is None:
            found.append((waiting or report).result())
        waiting = report if report.on_device is not None else None
        seconds.append(time.perf_counter() - started)
        tokens.append(sum(rows.batch([row]).ids_BT.numel() for row in chosen))
        trained.append(rows.targets(chosen))
    if waiting is not None:
        found.append(waiting.result())
    return {"losses": [one.loss for one in found], "seconds": seconds, "tokens": tokens, "trained": trained}


def theirs(name: str, method: str, packed: bool) -> dict[str, Any]:
    without_pydantic()
    from transformers import Trainer, TrainerCallback, TrainingArguments

    setup, model, rows = SETUPS[name], load(name, method), rows_of(name)
    chosen = numbers(setup, rows)
    if packed:
        data = [rows.batch([row]) for step in chosen for row in step]
        items = [{"input_ids": b.ids_BT[0], "labels": b.labels_BT[0], "position_ids": b.positions_BT[0]} for b in data]
        steps = [sum(b.ids_BT.numel() for b in data[i : i + setup.rows]) for i in range(0, len(data), setup.rows)]
        micro, accumulation = 1, setup.rows
    else:
        pieces = [[piece for row in step for piece in rows._pieces(row)] for step in chosen]
        fewest = min(map(len, pieces))
        items = [{"input_ids": torch.from_numpy(i.copy()), "labels": torch.from_numpy(t.copy())} for p in pieces for _, i, t in p[:fewest]]
        steps = []
        micro, accumulation = max(1, fewest // setup.rows), setup.rows
        items = [item for p in range(len(chosen)) for item in items[p * fewest : p * fewest + micro * accumulation]]

    def collate(batch: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        if packed:
            return {key: torch.stack([item[key] for item in batch]).long() for key in batch[0]}
        longest = max(len(item["input_ids"]) for item in batch)
        padded = {
            key: torch.stack([torch.nn.functional.pad(item[key].long(), (0, longest - len(item[key])), value=fill) for item in batch])
            for key, fill in (("input_ids", 0), ("labels", -100))
        }
        real = [torch.nn.functional.pad(torch.ones(len(i["input_ids"])), (0, longest - len(i["input_ids"]))) for i in batch]
        return padded | {"attention_mask": torch.stack(real).long()}

    seconds: list[float] = []
    losses: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *arguments: Any, **settings: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, *arguments: Any, **settings: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - self.started)

        def on_log(self, arguments: Any, state: Any, control: Any, logs: dict[str, float], **settings: Any) -> None:
            if "loss" in logs:
                losses.append(logs["loss"])

    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=accumulation,
        max_steps=len(chosen),
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        optim="adamw_torch_fused" if torch.cuda.is_available() else "adamw_torch",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available(),
        train_sampling_strategy="sequential",
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
    )
    Trainer(model, arguments, collate, items, callbacks=[Clock()]).train()
    size = micro * accumulation
    trained = [sum(int((item["labels"][1:] != -100).sum()) for item in items[i : i + size]) for i in range(0, len(items), size)]
    return {"losses": losses, "seconds": seconds, "tokens": steps, "trained": trained}


SIDES = {"axolotl": ours, "Trainer": lambda n, m: theirs(n, m, True), "Trainer, unpacked": lambda n, m: theirs(n, m, False)}


def peak() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(name: str, method: str, side: str) -> dict[str, Any]:
    """One process of one side."""
    done = subprocess.run([sys.executable, __file__, name, method, side], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def matmul_peak() -> float:
    """TFLOP/s of a large bf16 product on this card."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(5):
        a @ a
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
    return 20 * 2 * 8192**3 / (time.perf_counter() - started) / 1e12


def main(name: str, turns: int, file: Path | None) -> None:
    setup = SETUPS[name]
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores, {platform.machine()}"
    libraries = ", ".join(f"{library} {version(library)}" for library in ("torch", "transformers", "peft", "accelerate"))
    print(f"\nPython {platform.python_version()}, {libraries}; {where}\n")
    print(f"{name}: {setup.rows} × {setup.tokens} tokens per step; median of {turns} × {setup.steps} steps\n", flush=True)
    head = ["method", "side", "s a step", "tokens/s", "target tokens/s", "peak GiB", "axolotl's tokens/s ÷", "axolotl's memory ÷"]
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head), flush=True)
    results: dict[str, Any] = {}
    for method in setup.methods:
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for turn in range(turns):
            for side in SIDES if turn % 2 else reversed(SIDES):
                runs[side].append(measured(name, method, side))
        middle = {
            side: {
                "seconds": statistics.median(s for run in found for s in run["seconds"][setup.warm :]),
                **{
                    what: statistics.median(
                        n / s for run in found for n, s in zip(run[what][setup.warm :], run["seconds"][setup.warm :], strict=False)
                    )
                    if found[0][what]
                    else 0.0
                    for what in ("tokens", "trained")
                },
                "peak": max(run["peak"] for run in found),
            }
            for side, found in runs.items()
        }
        mine = middle["axolotl"]
        results[method] = middle
        for side, one in middle.items():
            speed = mine["trained"] / one["trained"]
            cells = [method, side, f"{one['seconds']:.2f}", f"{one['tokens']:.0f}" if one["tokens"] else "", f"{one['trained']:.0f}"]
            cells += [f"{one['peak'] / 2**30:.2f}", f"{speed:.2f}", f"{mine['peak'] / one['peak']:.2f}"]
            print("| " + " | ".join(cells) + " |", flush=True)
        pairs = zip(runs["axolotl"][0]["losses"], runs["Trainer"][0]["losses"], strict=False)
        apart = max(abs(a - b) for a, b in pairs)
        print(f"<!-- {method}: losses of axolotl and Trainer differ by {apart:.1e} at most -->", flush=True)
        if torch.cuda.is_available():
            size = sum(p.numel() for p in load(name, method).parameters())
            share = (6 if method == "full" else 4) * size * mine["tokens"] / 1e12 / matmul_peak()
            print(f"<!-- {method}: {share:.0%} of this card's bf16 matmul peak, counting {6 if method == 'full' else 4} N per token -->")
        if file:
            file.write_text(json.dumps({"where": where, "libraries": libraries, "setup": name, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SETUPS)
    parser.add_argument("side", nargs="*", help="a method and a side: one measurement, as JSON")
    parser.add_argument("--turns", type=int, help="processes a side; unset: as the setup says")
    parser.add_argument("--json", type=Path, help="a file for the numbers of the table")
    asked = parser.parse_args()
    if asked.side:
        print(json.dumps(SIDES[asked.side[1]](asked.name, asked.side[0]) | {"peak": peak()}))
    else:
        main(asked.name, asked.turns or SETUPS[asked.name].turns, asked.json)
