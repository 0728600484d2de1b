"""What an edit of 100,000 alpaca rows (about 20 M tokens) costs: rows encoded, and seconds of fetch and of tokenize.

    python benchmarks/incremental.py

Each stage is a process of its own, start of Python included. Medians of three; the first line is a run with nothing
cached. `touch` gives the file another time, `rename` another name in params.yaml.
"""

import json
import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from machine import describe, table
from tokenize_rows import AXOLOTL, make_rows, project

ROWS, ROUNDS = 100_000, 3


def stage(folder: Path, name: str) -> float:
    """Seconds of `axolotl stage NAME --only`."""
    started = time.perf_counter()
    subprocess.run([*AXOLOTL, "stage", name, "--only"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "rows.jsonl"
        make_rows(file, ROWS, "alpaca")
        folder = project(Path(temporary) / "project", file, "alpaca")
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        new = iter(range(10**6))
        shuffle = random.Random(0)

        def one() -> str:
            return json.dumps({"instruction": f"new {next(new)}", "output": "row"}) + "\n"

        def rename() -> None:
            params = json.loads((folder / "params.yaml").read_text())
            old = Path(params["datasets"]["a"]["path"])
            path = old.with_name(f"renamed-{next(new)}.jsonl")
            old.rename(path)
            params["datasets"]["a"]["path"] = str(path)
            (folder / "params.yaml").write_text(json.dumps(params))

        def write(rows: list[str]) -> None:
            file.write_text("".join(rows), encoding="utf-8")

        edits: dict[str, Callable[[], object]] = {
            "first run": lambda: None,
            "nothing": lambda: None,
            "touch": lambda: os.utime(file),
            "append 1": lambda: write([*lines, one()]),
            "edit 1": lambda: write([*lines[: ROWS // 2], one(), *lines[ROWS // 2 + 1 :]]),
            "reorder": lambda: write(shuffle.sample(lines, len(lines))),
            "rename": rename,
        }
        found = []
        for name, edit in edits.items():
            fetch_s, tokenize_s = [], []
            for _ in range(1 if name == "first run" else ROUNDS):
                edit()
                key = folder / "artifacts/keys/tokens/a.json"
                before = key.stat().st_mtime_ns if key.exists() else 0
                fetch_s.append(stage(folder, "fetch@a"))
                tokenize_s.append(stage(folder, "tokenize@a"))
                work = json.loads(key.read_text())["work"] if key.stat().st_mtime_ns != before else {"encoded": 0, "reused": "not run"}
            reused = work["reused"] if isinstance(work["reused"], str) else f"{work['reused']:,}"
            found.append([name, f"{work['encoded']:,}", reused, *(f"{statistics.median(s):.2f}" for s in (fetch_s, tokenize_s))])
        describe("tokenizers", "pyarrow")
        tokens = json.loads((folder / "artifacts/tokens/a/manifest.json").read_text())["tokens"]
        print(f"{ROWS:,} rows, {tokens:,} tokens, median of {ROUNDS}\n")
        table(["edit", "rows encoded", "rows reused", "fetch s", "tokenize s"], found)


if __name__ == "__main__":
    main()
