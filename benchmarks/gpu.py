"""What a GPU makes of it, in one command of at most nine minutes: a table, and JSON with commit, versions and card.

    python benchmarks/gpu.py --json benchmarks/results/CARD.json
    python benchmarks/gpu.py --small            the same on small shapes, on a CPU too: does everything run?

    ceilings     copy and bf16 product of this card: what every other number is to be held against
    1 b, 8 b     a llama of 1 B (Llama 3.2's shape) full and LoRA, of 8 B LoRA and QLoRA, rows of 4,096 packed tokens: axolotl, with Liger's
                 kernels, compiled; the Trainer; TRL's SFTTrainer (benchmarks/sides.py)
    repeat       the same steps twice: are all weights the same to the bit, and if not, with which attention
    attention    each kind that fits, forward and backward, at 4 k, 16 k and 64 k tokens of samples of 400 (benchmarks/attention.py)
    head         the output layer and its loss by size of its chunks, compiled and not

Every part is a process of its own with a time limit; one that fails is kept with its text, one that there is no time for says so. MFU
counts 6 N operations a token for full and 4 N for LoRA, N the weights in products of matrices, against the card's peak as its maker gives
it.

It starts where there is no network and Python 3.12 with torch 2.11, triton, transformers 5.17, peft, accelerate, pyarrow, numpy, xxhash,
click, jinja2 and sentencepiece; beside them, as wheels in a folder on PYTHONPATH: pydantic, pydantic-core, annotated-types,
typing-inspection, ruamel.yaml, orjson, gguf, bitsandbytes, liger-kernel, cut-cross-entropy, trl, and for trl datasets, dill, multiprocess,
pandas, fsspec, python-dateutil, six.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from machine import in_process, table
from sides import ROOT, SETUPS, device_of
from trainer import measured, medians

from axolotl_core.tracking.peak import tflops_16

MOST_S = 9 * 60
PACKAGES = ("torch", "triton", "transformers", "peft", "accelerate", "bitsandbytes", "liger-kernel", "flash-attn", "trl")
SIDES = ("axolotl", "axolotl, kernels", "Trainer", "TRL", "axolotl, compiled")
MOST_S_OF_SIDE = 100.0
"""Compiling a model of 1 B takes a minute of it."""
HEAD_SHAPE = (4096, 2048, 128_256)
"""Target tokens, features, words."""


@dataclass
class Run:
    """One call: what was measured so far, and until when it may measure."""

    small: bool
    file: Path | None
    ends: float
    results: dict[str, Any] = field(default_factory=dict)

    def left(self) -> float:
        return self.ends - time.monotonic()

    def part(self, name: str, measure: Callable[[], Any]) -> Any:
        """Measure and keep, whatever comes of it."""
        started = time.monotonic()
        found = measure() if self.left() > 15 else {"failed": "no time left"}
        self.results[name] = found
        print(f"{name}: {time.monotonic() - started:.0f} s, {max(0, self.left()):.0f} s left", file=sys.stderr, flush=True)
        if self.file:
            self.file.write_text(json.dumps(self.results, indent=1) + "\n")
        return found

    def part_in_process(self, *words: str, limit_s: float = 120) -> dict[str, Any]:
        """A part of this file in a process of its own."""
        limit_s = max(5.0, min(limit_s, self.left()))
        found: dict[str, Any] = in_process([__file__, *(["--small"] if self.small else []), "--part", *words], limit_s)
        return found


def timed(function: Callable[[], Any], repeats: int) -> list[float]:
    """Seconds of each call after three for nothing."""
    found = []
    for _ in range(repeats + 3):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        started = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return found[3:]


def where() -> dict[str, Any]:
    """Commit, versions, card."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else f"no GPU, {platform.machine()}"
    return {"commit": commit or "unknown", "python": platform.python_version(), "versions": found, "card": card}


def ceilings(small: bool) -> dict[str, float]:
    """GB/s of a copy (read and written), TFLOP/s of a bf16 product."""
    device, size = device_of(), 512 if small else 8192
    numbers = torch.empty(2**20 if small else 2**30, dtype=torch.uint8, device=device)
    copy_s = statistics.median(timed(numbers.clone, 10))
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    product_s = statistics.median(timed(lambda: a @ a, 20))
    return {"copy_gb_s": 2 * numbers.numel() / copy_s / 1e9, "product_tflops": 2 * size**3 / product_s / 1e12}


def head(small: bool) -> list[dict[str, Any]]:
    """Milliseconds forward (the gradient is made there) and peak bytes of the output layer's loss, by bytes of a chunk."""
    from axolotl_core.kernels import chunked
    from axolotl_core.objectives import cross_entropy

    device, found = device_of(), []
    count, features, words = (256, 64, 1024) if small else HEAD_SHAPE
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    states = torch.randn(count, features, device=device, dtype=dtype, requires_grad=True)
    weight = (torch.randn(words, features, device=device, dtype=dtype) * 0.02).requires_grad_()
    labels = torch.randint(words, (count,), device=device)
    plain, other = cross_entropy.loss_and_slope, cross_entropy.chunk_body(device.type)
    for compiled, body in ((False, plain), (True, other)):
        if compiled and body is plain:
            found.append({"compiled": True, "failed": f"it is not compiled on this machine ({device.type})"})
            continue
        cross_entropy.chunk_body = lambda kind, body=body: body  # type: ignore[assignment]
        for power in (18, 20) if small else (26, 27, 28, 29, 30):
            chunked.CHUNK_BYTES[device.type] = 2**power
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            run = lambda: cross_entropy.LinearCrossEntropy.apply(states, weight, None, labels)  # noqa: E731
            times = timed(run, 10)
            peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
            median = statistics.median(times)
            found.append(
                {"compiled": compiled, "chunk": f"2**{power}", "ms": 1e3 * median, "spread": max(times) / min(times), "peak": peak}
            )
    return found


def attention(kind: str, small: bool) -> list[dict[str, Any]]:
    """`benchmarks/attention.py` of one kind, all sizes in one process."""
    from attention import CPU, GPU, REFERENCE, measure

    sizes = (256, 512) if small else (GPU if torch.cuda.is_available() else CPU)["tokens"]
    rows: list[dict[str, Any]] = []
    for tokens in sizes:
        if tokens > 16384 and kind in ("eager", REFERENCE):
            rows.append({"tokens": tokens, "failed": "a mask or scores of 65,536² are not tried"})
            continue
        try:
            rows.append({"tokens": tokens, **measure(kind, tokens)})
        except (RuntimeError, ValueError, TypeError, ImportError, AssertionError) as error:
            rows.append({"tokens": tokens, "failed": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"})
    return rows


def repeat(name: str, method: str) -> dict[str, Any]:
    """Whether the same steps end with the same weights, twice in one process."""
    from sides import ours

    first, second = (ours(name, method) for _ in range(2))
    same = first["weights"] == second["weights"] and first["losses"] == second["losses"]
    return {"same": same, "attention": first["attention"], "losses": [first["losses"], second["losses"]]}


def matrix_weights(name: str) -> int:
    """N: weights in products of matrices, the output layer's among them."""
    shape = SETUPS[name].config
    assert shape is not None
    wide, inner, layers = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    heads, groups = shape["num_attention_heads"], shape["num_key_value_heads"]
    each = 2 * wide * wide + 2 * wide * (wide // heads) * groups + 3 * wide * inner
    return int(layers * each + shape["vocab_size"] * wide)


def one_side(run: Run, name: str, method: str, side: str) -> dict[str, Any]:
    return medians(SETUPS[name], [measured(name, method, side, timeout_s=max(5.0, min(MOST_S_OF_SIDE, run.left())))])


def models(run: Run, name: str, method: str, sides: tuple[str, ...]) -> None:
    """A process a side. MFU beside the speed."""
    for side in sides:
        found = run.part(f"{name} {method} {side}", partial(one_side, run, name, method, side))
        if found.get("tokens"):
            card = run.results["where"]["card"]
            peak = tflops_16(card)
            operations = (6 if method == "full" else 4) * matrix_weights(name) * found["tokens"] / 1e12
            found["tflops"] = operations
            found["mfu"] = operations / peak if peak else None


def main(small: bool, file: Path | None) -> None:
    run = Run(small, file, time.monotonic() + MOST_S)
    print(json.dumps(run.part("where", where)))
    run.part("ceilings", lambda: run.part_in_process("ceilings", limit_s=40))
    kinds = ("varlen", "flash_attention_3", "flash_attention_2", "flex_attention", "xformers", "sdpa", "eager")
    big = (("tiny", ("lora", "full", "qlora")),) if small else (("llama-1b", ("lora", "full")), ("llama-8b", ("lora", "qlora")))
    for name, methods in big:
        for method in methods:
            models(run, name, method, SIDES if name != "llama-8b" else ("axolotl, kernels", "TRL", "Trainer"))
    for method in ("lora", "full"):
        run.part(
            f"repeat {method}", lambda method=method: run.part_in_process("repeat", "tiny" if small else "llama-1b", method, limit_s=60)
        )
    for kind in kinds:
        run.part(f"attention {kind}", lambda kind=kind: run.part_in_process("attention", kind, limit_s=30))
    run.part("head", lambda: run.part_in_process("head", limit_s=40))
    shown(run.results)


def shown(results: dict[str, Any]) -> None:
    """The tables."""
    print(f"\nceilings: {results['ceilings']}\n")
    cells = []
    for part, found in results.items():
        if not part.startswith("attention "):
            continue
        for row in found if isinstance(found, list) else [found]:
            why = row.get("failed") or row.get("unfit")
            times = [f"{statistics.median(row[way]):.2f}" for way in ("forward_ms", "backward_ms")] if not why else ["", ""]
            peak = f"{row['peak'] / 2**20:.0f}" if not why else ""
            cells.append([part.split()[1], f"{row['tokens']:,}" if "tokens" in row else "", *times, peak, why or ""])
    table(["attention", "tokens", "forward ms", "backward ms", "peak MiB", ""], cells)
    print()
    heads = results["head"] if isinstance(results["head"], list) else [results["head"]]
    rows = [[r.get("compiled"), r.get("chunk", ""), f"{r['ms']:.1f}" if "ms" in r else r["failed"], r.get("peak", 0) >> 20] for r in heads]
    table(["head compiled", "chunk bytes", "ms", "peak MiB"], rows)
    print()
    rows = []
    for part, one in results.items():
        name, *words = part.split(maxsplit=2)
        if name not in SETUPS:
            continue
        if "failed" in one:
            rows.append([name, *words, f"failed: {one['failed']}", "", "", "", "", ""])
            continue
        share = "" if one.get("mfu") is None else f"{one['mfu']:.0%}"
        speeds = [f"{one['tokens']:,.0f}", f"{one['trained']:,.0f}", share, f"{one['peak'] / 2**30:.1f}"]
        rows.append([name, *words, *speeds, f"{one['spread']:.2f}", one["attention"]])
    table(["model", "method", "side", "tokens/s", "target tokens/s", "MFU", "peak GiB", "max ÷ min", "attention"], rows)
    for part, one in results.items():
        if part.startswith("repeat"):
            print(f"\n{part}: " + (one.get("failed") or f"{'the same' if one['same'] else 'other'} weights, {one['attention']} attention"))


PARTS: dict[str, Callable[..., Any]] = {
    "ceilings": lambda small: ceilings(small),
    "head": lambda small: head(small),
    "attention": lambda small, kind: attention(kind, small),
    "repeat": lambda small, name, method: repeat(name, method),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="a file for all numbers, written after each part")
    parser.add_argument("--small", action="store_true", help="small shapes, to see that all of it runs")
    parser.add_argument("--part", nargs="+", help="one part in this process, as JSON")
    asked = parser.parse_args()
    if asked.part:
        print(json.dumps(PARTS[asked.part[0]](asked.small, *asked.part[1:])))
    else:
        main(asked.small, asked.json)
