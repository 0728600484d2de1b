"""The sides of a comparison: axolotl's step, Hugging Face's Trainer and TRL's SFTTrainer, on the same rows, model, dtype and optimizer.

    python benchmarks/sides.py SETUP METHOD SIDE     one measurement in a process of its own, as JSON

All sides get packed rows laid by axolotl. The Trainer and TRL are given positions that restart, which transformers keeps samples apart by;
`unpacked` is the Trainer on one sample a row, padded to the longest of a batch, with as many samples a step: how most people run it. TRL
runs its own loss (logits at trained positions only, a chunk at a time) and, on a GPU, the best attention that is installed for it. Models
are random but for `smollm2`, so that nothing is downloaded.

Needs torch, transformers, accelerate, peft, pyarrow, xxhash and pydantic; bitsandbytes for qlora, trl for TRL.
"""

import argparse
import hashlib
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


@dataclass(frozen=True)
class Setup:
    """rows, tokens: of a step; methods; steps measured a process after `warm` ones; turns: processes a side.

    checkpointing: recompute activations, on every side.
    """

    rows: int
    tokens: int
    methods: tuple[str, ...]
    steps: int
    warm: int
    turns: int
    config: dict[str, Any] | None = None
    checkpointing: bool = False


LLAMA = {"vocab_size": 128_256, "max_position_embeddings": 8192}
ONE_B = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8}
EIGHT_B = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
SMALL = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 16, "num_key_value_heads": 8}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
TIED, APART = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
SETUPS = {
    "smollm2": Setup(2, 512, ("lora", "qlora", "full"), 4, 1, 2),
    "llama-300m": Setup(1, 1024, ("lora", "full"), 3, 1, 2, LLAMA | TIED | SMALL),
    "llama-1b": Setup(4, 4096, ("lora", "full"), 12, 4, 1, LLAMA | TIED | ONE_B),
    "llama-8b": Setup(2, 4096, ("lora", "qlora"), 6, 3, 1, LLAMA | APART | EIGHT_B, checkpointing=True),
    "tiny": Setup(2, 256, ("lora", "qlora", "full"), 3, 1, 1, LLAMA | TIED | TINY | {"vocab_size": 1024}),
}
"""`tiny`: to try a benchmark out."""
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


def device_of() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def base_of(name: str, method: str, attention: str) -> Any:
    """The model before it is trained: random weights on the device, or SmolLM2's."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM

    device, setup = device_of(), SETUPS[name]
    dtype = torch.bfloat16 if device.type == "cuda" and method != "full" else torch.float32
    torch.manual_seed(0)
    if setup.config is None:
        quantised = {}
        if method == "qlora":
            nf4 = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
            )
            quantised = {"quantization_config": nf4, "device_map": {"": device}}
        return AutoModelForCausalLM.from_pretrained(ROOT / "artifacts" / "base", dtype=dtype, attn_implementation=attention, **quantised)
    with device:
        model = LlamaForCausalLM._from_config(LlamaConfig(**setup.config), dtype=dtype, attn_implementation=attention)
    if method == "qlora":
        quantise(model, dtype)
    return model


def quantise(model: Any, dtype: torch.dtype) -> None:
    """Each linear layer but the output layer to NF4, one after the other on the device."""
    import bitsandbytes as bnb

    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is torch.nn.Linear and layer is not head:
                small = bnb.nn.Linear4bit(layer.in_features, layer.out_features, False, dtype, quant_type="nf4", device="meta")
                weight = bnb.nn.Params4bit(layer.weight.data.cpu(), requires_grad=False, quant_type="nf4", compress_statistics=True)
                small.weight = weight.to(layer.weight.device)
                setattr(parent, name, small)
    model.is_loaded_in_4bit = True


def load(name: str, method: str, attention: str) -> Any:
    model = base_of(name, method, attention)
    model.config.use_cache = False
    if method != "full":
        from peft import LoraConfig, get_peft_model

        for module in model.modules():
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False
        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=TARGETS, task_type="CAUSAL_LM"))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return model


def rows_of(name: str) -> Any:
    from axolotl_core.batches.rows import RowSource, open_rows
    from axolotl_core.packing.plan import fit, lay_out

    setup = SETUPS[name]
    if setup.config is None:
        from axolotl_core.artifacts import manifest

        artifacts = ROOT / "artifacts"
        return open_rows(artifacts / "packed", "train", artifacts / "tokens", manifest.read(artifacts / "packed"), 0)
    samples = Samples(60 * setup.rows, setup.tokens, setup.config["vocab_size"])
    pieces, _ = fit(0, np.array([len(ids) for ids in samples.ids]), setup.tokens, "drop")
    return RowSource(lay_out(pieces, setup.tokens, True), [samples], 0, setup.tokens, False)  # type: ignore[list-item]


def numbers(setup: Setup, rows: Any) -> list[list[int]]:
    """Rows of each step."""
    return [[(step * setup.rows + i) % len(rows) for i in range(setup.rows)] for step in range(setup.steps + setup.warm)]


def ours(name: str, method: str, options: dict[str, Any] | None = None) -> dict[str, Any]:
    """axolotl's step. options: of the machine section."""
    from axolotl_core.adapters import lora
    from axolotl_core.attention.choose import choose
    from axolotl_core.distributed.start import start_strategy
    from axolotl_core.kernels.choose import choose_loss, replace_layers, unmet
    from axolotl_core.models.activations import checkpoint_layers
    from axolotl_core.models.forward import ForwardSpec, unwrap
    from axolotl_core.models.load import need_of
    from axolotl_core.models.precision import Precision
    from axolotl_core.models.self_test import difference, splits
    from axolotl_core.objectives.sft import Objective
    from axolotl_core.optim.groups import set_lr_and_betas
    from axolotl_core.optim.optimizers import make_optimizer
    from axolotl_core.params.adapter import Adapter
    from axolotl_core.params.machine import Machine
    from axolotl_core.params.training import Training
    from axolotl_core.training.setup import compile_layers, unlike_pytorch
    from axolotl_core.training.step import train_step

    setup, rows, device = SETUPS[name], rows_of(name), device_of()
    machine = Machine(**{"gradient_checkpointing": setup.checkpointing} | (options or {}))
    autocast = torch.bfloat16 if device.type == "cuda" else None
    from transformers import AutoConfig, LlamaConfig

    config = LlamaConfig(**setup.config) if setup.config else AutoConfig.from_pretrained(ROOT / "artifacts" / "base")
    attention, note = choose(machine, need_of(config, device, autocast or torch.float32, packed=True))
    model = load(name, method, attention)
    inner = unwrap(model)
    spec = ForwardSpec(split=splits(inner, ForwardSpec()))
    need = need_of(inner.config, device, autocast or torch.float32, packed=True)
    notes = [*([note] if note else []), *unmet(machine, need)]
    notes += replace_layers(inner, machine, need, lambda change: difference(inner, spec, autocast, change))
    kernel, more = choose_loss(machine, need, partial(unlike_pytorch, model, spec, autocast, device))
    if autocast:
        lora.leave_casts_to_autocast(model)
    if machine.gradient_checkpointing:
        checkpoint_layers(model, selective=machine.gradient_checkpointing == "selective")
    if machine.torch_compile:
        notes += compile_layers(inner, machine, device)
    strategy = start_strategy(
        machine, Precision("", torch.float32, torch.float32, autocast), ROOT, device=device, max_grad_norm=1.0, model=inner
    )
    training = Training(learning_rate=LEARNING_RATE)
    strategy.prepare(
        Objective(model, spec, autocast, kernel=kernel).train(), lambda: make_optimizer(model.named_parameters(), training, Adapter())
    )
    found, seconds, tokens, trained = [], [], [], []
    waiting: Any = None
    for step, chosen in enumerate(numbers(setup, rows), 1):
        started = time.perf_counter()
        set_lr_and_betas(strategy.optimizer, LEARNING_RATE, None)
        report = train_step(strategy, rows, chosen, step=step, seed=0, micro_batch_size=1)
        if waiting is not None or report.on_device is None:
            found.append((waiting or report).result())
        waiting = report if report.on_device is not None else None
        if device.type == "cuda":  # as the other sides are timed; a run waits for the step before only
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        tokens.append(sum(rows.batch([row]).ids_BT.numel() for row in chosen))
        trained.append(rows.targets(chosen))
    if waiting is not None:
        found.append(waiting.result())
    digest = hashlib.sha256()
    for parameter in model.parameters():
        if parameter.requires_grad:
            digest.update(parameter.detach().float().cpu().numpy().tobytes())
    facts = {"attention": attention, "notes": [*notes, *more], "weights": digest.hexdigest()}
    return {"losses": [one.loss for one in found], "seconds": seconds, "tokens": tokens, "trained": trained} | facts


def theirs(name: str, method: str, *, packed: bool = True, trl: bool = False) -> dict[str, Any]:
    """Hugging Face's Trainer, or TRL's."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    setup, rows, gpu = SETUPS[name], rows_of(name), torch.cuda.is_available()
    attention = "sdpa"
    if trl and gpu:
        attention = "flash_attention_2" if find_spec("flash_attn") else "flex_attention"
    model, chosen = load(name, method, attention), numbers(setup, rows)
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

    def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = [{key: torch.as_tensor(value) for key, value in item.items()} for item in batch]
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
            if gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - self.started)

        def on_log(self, arguments: Any, state: Any, control: Any, logs: dict[str, float], **settings: Any) -> None:
            if "loss" in logs:
                losses.append(logs["loss"])

    settings: dict[str, Any] = {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulation,
        "max_steps": len(chosen),
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not gpu,
        "bf16": gpu,
        "gradient_checkpointing": setup.checkpointing,
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": gpu,
        "remove_unused_columns": False,
    }
    trainer = of_trl(model, settings, collate, items) if trl else Trainer(model, TrainingArguments(**settings), collate, items)
    trainer.add_callback(Clock())
    trainer.train()
    size = micro * accumulation
    trained = [sum(int((item["labels"][1:] != -100).sum()) for item in items[i : i + size]) for i in range(0, len(items), size)]
    return {"losses": losses, "seconds": seconds, "tokens": steps, "trained": trained, "attention": attention}


def of_trl(model: Any, settings: dict[str, Any], collate: Callable[..., Any], items: list[dict[str, Any]]) -> Any:
    """TRL's SFTTrainer on rows that are laid already."""
    import trl
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "</s>": 1}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, "<pad>")), pad_token="<pad>", eos_token="</s>"
    )
    rows = Dataset.from_list([{key: value.tolist() for key, value in item.items()} for item in items])
    arguments = trl.SFTConfig(**settings, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}, loss_type="nll")
    return trl.SFTTrainer(model, arguments, data_collator=collate, train_dataset=rows, processing_class=tokenizer)


def peak() -> int:
    """Bytes: of the allocator on a GPU, of the process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


SIDES: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "axolotl": ours,
    "axolotl, kernels": lambda n, m: ours(
        n, m, {"liger_rms_norm": True, "liger_rope": True, "liger_glu_activation": True, "torch_compile": False}
    ),
    "axolotl, compiled": lambda n, m: ours(n, m, {"torch_compile": True}),
    "Trainer": lambda n, m: theirs(n, m),
    "Trainer, unpacked": lambda n, m: theirs(n, m, packed=False),
    "TRL": lambda n, m: theirs(n, m, trl=True),
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SETUPS)
    parser.add_argument("method")
    parser.add_argument("side", choices=SIDES)
    asked = parser.parse_args()
    print(json.dumps(SIDES[asked.side](asked.name, asked.method) | {"peak": peak()}))
