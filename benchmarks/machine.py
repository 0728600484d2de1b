"""What every benchmark prints first: versions and cores; how a part is measured in a process of its own, and how a table is printed."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any


def describe(*packages: str) -> None:
    found = ", ".join(f"{name} {version(name)}" for name in packages)
    print(f"\nPython {platform.python_version()}, {found}; {os.cpu_count()} cores, {platform.machine()}\n")


def in_process(words: Sequence[str], timeout_s: float | None = None, environment: dict[str, str] | None = None) -> Any:
    """The JSON that a Python process prints last; {"failed": why} where it did not end well."""
    command = [sys.executable, *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return {"failed": f"not done in {timeout_s:.0f} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1][:400]}
    return json.loads(done.stdout.splitlines()[-1])


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print("\n".join(lines))
