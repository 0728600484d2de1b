"""Attention of packed rows, forward and backward: each kind that fits, against the mask of T × T that transformers makes of positions.

    python benchmarks/attention.py             512, 2,048 and 8,192 tokens of samples of about 200 on a CPU
    python benchmarks/attention.py --json FILE

One row goes through the attention of one llama layer, masks and ends of samples included, as a batch of the training loop does. Each
measurement is a process of its own, so that its peak memory is its own: on a CPU what the process holds beyond queries, keys and values,
on a GPU what the allocator held.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from machine import describe, in_process, table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
CPU = {"tokens": (512, 2048, 8192), "sample": 200, "heads": (9, 3, 64), "repeats": 7}
"""SmolLM2-135M's attention: 9 heads, 3 of keys and values, 64 features."""
GPU = {"tokens": (4096, 16384, 65536), "sample": 400, "heads": (32, 8, 64), "repeats": 20}
"""Llama 3.2 1B's."""
REFERENCE = "sdpa"


def lengths_of(tokens: int, mean: int) -> list[int]:
    """Samples that fill a row: normal lengths, cut at its end."""
    draw, found = np.random.default_rng(0), []
    while sum(found) < tokens:
        found.append(int(min(tokens - sum(found), max(8, draw.normal(mean, mean / 3)))))
    return found


def measure(kind: str, tokens: int) -> dict[str, Any]:
    """Milliseconds of forward and of backward passes, bytes at the peak; {"unfit": why} where a kind does not run here."""
    from transformers import LlamaConfig
    from transformers.masking_utils import create_causal_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.llama.modeling_llama import eager_attention_forward

    from axolotl_core.attention.choose import backend, why_not
    from axolotl_core.attention.laid import Laid
    from axolotl_core.attention.sequences import Sequences
    from axolotl_core.models.load import need_of

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    setup = GPU if device.type == "cuda" else CPU
    heads, groups, features = setup["heads"]
    config = LlamaConfig(hidden_size=heads * features, num_attention_heads=heads, num_key_value_heads=groups, num_hidden_layers=1)
    config._attn_implementation = kind
    if reason := why_not(kind, need_of(config, device, dtype, packed=True)):
        return {"unfit": reason}
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(kind, eager_attention_forward)
    module = SimpleNamespace(config=config, num_key_value_groups=heads // groups, is_causal=True, training=True, layer_idx=0)
    positions = torch.cat([torch.arange(n) for n in lengths_of(tokens, setup["sample"])])[None]
    torch.manual_seed(0)
    states = [torch.randn(1, h, tokens, features, device=device, dtype=dtype, requires_grad=True) for h in (heads, groups, groups)]
    hidden = torch.zeros(1, tokens, 1, device=device, dtype=dtype)
    slope = torch.randn(1, tokens, heads, features, device=device, dtype=dtype)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    times = []
    for _ in range(setup["repeats"] + 2):
        started = clock()
        sequences = Sequences.of(positions).placed(device)
        placed = positions.to(device)
        laid = Laid(placed, sequences, "positions", dtype)
        mask = create_causal_mask(config, hidden, None, None, position_ids=placed)
        out = attend(module, *states, mask, dropout=0.0, scaling=features**-0.5, **backend(kind).inputs(laid))[0]
        forward = clock()
        torch.autograd.grad(out, states, slope)
        times.append((forward - started, clock() - forward))
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    forward_s, backward_s = (list(part) for part in zip(*times[2:], strict=True))
    return {"forward_ms": [1e3 * s for s in forward_s], "backward_ms": [1e3 * s for s in backward_s], "peak": peak - before}


def run(setup: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each kind and number of tokens, printed as they come."""
    from axolotl_core import lookup
    from axolotl_core.attention.choose import KINDS

    rows: list[dict[str, Any]] = []
    for tokens in setup["tokens"]:
        for kind in [REFERENCE, *(kind for kind in lookup.names(KINDS) if kind != REFERENCE)]:
            if kind == "eager" and tokens > 16384:
                continue  # scores of 65,536² are 256 GiB
            if not any(row["kind"] == kind and "unfit" in row for row in rows):
                rows.append({"tokens": tokens, "kind": kind, **in_process([__file__, "--one", kind, str(tokens)], timeout_s=300)})
    return rows


def shown(rows: list[dict[str, Any]]) -> None:
    cells: list[list[str]] = []
    reference: dict[int, float] = {}
    for row in rows:
        if "unfit" in row:
            print(f"{row['kind']} does not fit: {row['unfit']}")
            continue
        if "failed" in row:
            cells.append([f"{row['tokens']:,}", row["kind"], "", "", "", "", f"failed: {row['failed']}"])
            continue
        forward, backward = (statistics.median(row[part]) for part in ("forward_ms", "backward_ms"))
        spread = max(row["backward_ms"]) / min(row["backward_ms"])
        if row["kind"] == REFERENCE:
            reference[row["tokens"]] = forward + backward
        share = f"{reference[row['tokens']] / (forward + backward):.2f}" if row["tokens"] in reference else ""
        peak = f"{row['peak'] / 2**20:.0f}"
        cells.append(
            [f"{row['tokens']:,}", row["kind"], f"{forward:.1f}", f"{backward:.1f}", peak, share, f"backward max ÷ min {spread:.2f}"]
        )
    print()
    table(["tokens", "kind", "forward ms", "backward ms", "peak MiB", f"{REFERENCE}'s time ÷", "note"], cells)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, metavar=("KIND", "TOKENS"), help="one measurement, as JSON")
    parser.add_argument("--json", type=Path, help="a file for all numbers")
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(measure(asked.one[0], int(asked.one[1]))))
    else:
        describe("torch", "transformers")
        found = run(GPU if torch.cuda.is_available() else CPU)
        shown(found)
        if asked.json:
            asked.json.write_text(json.dumps(found, indent=1) + "\n")
