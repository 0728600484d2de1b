"""What one long row takes: peak memory of fetch and of tokenize above that of a short row, in bytes for each byte of the row.

    python benchmarks/long_row.py [MB …]      # 25 and 100

Each stage is a process of its own; the peak is what the kernel says of it (ru_maxrss).
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe, table
from tokenize_rows import AXOLOTL, MODEL

WORDS = ["axolotls", "keep", "their", "gills", "all", "lives,", "and", "regrow", "a", "limb", "in", "weeks;", "they", "too"]


def project(folder: Path, rows: Path) -> Path:
    """A project with the dataset `a`."""
    folder.mkdir()
    params = {"model": {"base_model": MODEL}, "datasets": {"a": {"path": str(rows), "type": "completion"}}}
    (folder / "params.yaml").write_text(json.dumps(params))
    return folder


def text(megabytes: float) -> str:
    draw = random.Random(0)
    block = " ".join(draw.choice(WORDS) for _ in range(200_000))
    return (block * (int(megabytes * 1e6) // len(block) + 1))[: int(megabytes * 1e6)]


def peak(folder: Path, name: str) -> tuple[float, float]:
    """Peak memory in bytes and seconds of `axolotl stage NAME --only`."""
    started = time.perf_counter()
    child = subprocess.Popen([*AXOLOTL, "stage", name, "--only"], cwd=folder, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    assert status == 0, name
    return used.ru_maxrss * 1024, time.perf_counter() - started


def main() -> None:
    sizes = [float(word) for word in sys.argv[1:]] or [25, 100]
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        found = {}
        for size in (0.001, *sizes):
            file = Path(temporary) / "rows.jsonl"
            rows = [{"text": "a short row"}, {"text": text(size)}, {"text": "another"}]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            folder = project(Path(temporary) / f"project-{size}", file)
            for name in ("fetch@a", "fetch-tokenizer", "tokenize@a"):
                found[size, name] = peak(folder, name)
        for size in sizes:
            for name in ("fetch@a", "tokenize@a"):
                taken = found[size, name][0] - found[0.001, name][0]
                lines.append((f"{size:g}", name, f"{taken / 2**20:,.0f}", f"{taken / (size * 1e6):.1f}", f"{found[size, name][1]:.1f}"))
    describe("tokenizers", "pyarrow")
    table(["MB", "stage", "MiB above a short row", "bytes a byte", "s"], lines)


if __name__ == "__main__":
    main()
