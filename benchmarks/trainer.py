"""axolotl against Hugging Face's Trainer with peft and against TRL's SFTTrainer: the same packed rows, model, dtype and optimizer.

    python benchmarks/trainer.py smollm2        the default pipeline's model and rows, where `make quickstart` has run
    python benchmarks/trainer.py llama-300m     a random llama, 128,256 words, 1,024 tokens a row
    python benchmarks/trainer.py llama-1b       a random llama on a GPU: bf16, rows of 4,096 tokens

Each side (benchmarks/sides.py) runs in processes of its own, in turns, so that peak memory is its own and the machine's moods meet all; a
ratio is that of the medians of all steps. TRL is wanted beside what is installed: pip install --no-deps --target DIR trl, and --trl DIR.
"""

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

from machine import describe, in_process, table
from sides import SETUPS, Setup

COMPARED = ("axolotl", "Trainer", "Trainer, unpacked", "TRL")


def measured(name: str, method: str, side: str, trl: Path | None = None, timeout_s: float | None = None) -> dict[str, Any]:
    """One process of one side; {"failed": why} where it did not end well."""
    paths = [str(trl)] if trl else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    found: dict[str, Any] = in_process([str(Path(__file__).with_name("sides.py")), name, method, side], timeout_s, environment)
    return found


def medians(setup: Setup, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of all steps after the first few: seconds, tokens/s, target tokens/s, spread of seconds (max ÷ min); peak bytes. Or the failure."""
    if failed := [run["failed"] for run in runs if "failed" in run]:
        return {"failed": failed[0]}
    seconds = [s for run in runs for s in run["seconds"][setup.warm :]]
    found: dict[str, Any] = {"seconds": statistics.median(seconds), "spread": max(seconds) / min(seconds)}
    for what in ("tokens", "trained"):
        speeds = [n / s for run in runs for n, s in zip(run[what][setup.warm :], run["seconds"][setup.warm :], strict=False)]
        found[what] = statistics.median(speeds) if speeds else None
    return found | {"peak": max(run["peak"] for run in runs), "attention": runs[0]["attention"], "notes": runs[0].get("notes", [])}


def rows_of(method: str, found: dict[str, dict[str, Any]]) -> list[list[str]]:
    """A row of the table for each side. The last two columns: axolotl over that side."""
    mine, rows = found["axolotl"], []
    for side, one in found.items():
        if "failed" in one:
            rows.append([method, side, f"failed: {one['failed']}", *[""] * 6])
            continue
        ratios = ["", ""]
        if "failed" not in mine:
            ratios = [f"{mine['trained'] / one['trained']:.2f}", f"{mine['peak'] / one['peak']:.2f}"]
        tokens = f"{one['tokens']:,.0f}" if one["tokens"] else ""
        cells = [f"{one['seconds']:.2f}", f"{one['spread']:.2f}", tokens, f"{one['trained']:,.0f}", f"{one['peak'] / 2**30:.2f}"]
        rows.append([method, f"{side} ({one['attention']})", *cells, *ratios])
    return rows


HEAD = ["method", "side", "s a step", "max ÷ min", "tokens/s", "target tokens/s", "peak GiB", "axolotl's tokens/s ÷", "axolotl's memory ÷"]


def main(name: str, turns: int, file: Path | None, trl: Path | None) -> None:
    setup = SETUPS[name]
    describe("torch", "transformers", "peft", "accelerate")
    sides = [side for side in COMPARED if side != "TRL" or trl]
    print(f"{name}: {setup.rows} × {setup.tokens} tokens per step; median of {turns} × {setup.steps} steps\n", flush=True)
    rows: list[list[str]] = []
    results: dict[str, Any] = {}
    for method in setup.methods:
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for turn in range(turns):
            for side in sides if turn % 2 else reversed(sides):
                runs[side].append(measured(name, method, side, trl))
        results[method] = {side: medians(setup, found) for side, found in runs.items()}
        rows += rows_of(method, results[method])
        losses = [runs[side][0].get("losses", []) for side in ("axolotl", "Trainer")]
        print(
            f"{method}: losses of axolotl and Trainer differ by {max(abs(a - b) for a, b in zip(*losses, strict=False)):.1e} at most",
            flush=True,
        )
    print()
    table(HEAD, rows)
    if file:
        file.write_text(json.dumps({"setup": name, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SETUPS)
    parser.add_argument("--turns", type=int, help="processes a side; unset: as the setup says")
    parser.add_argument("--json", type=Path, help="a file for the numbers of the table")
    parser.add_argument("--trl", type=Path, help="a folder that trl is installed in")
    asked = parser.parse_args()
    main(asked.name, asked.turns or SETUPS[asked.name].turns, asked.json, asked.trl)
