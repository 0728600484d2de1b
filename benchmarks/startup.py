"""What it costs when there is nothing to do: help, a stage that is up to date, a graph that is.

python benchmarks/startup.py      in a project where everything is up to date, such as after `make quickstart`
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from machine import describe, table

BIN = Path(sys.executable).parent
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "axolotl --help": [str(BIN / "axolotl"), "--help"],
    "axolotl check": [str(BIN / "axolotl"), "check"],
    "axolotl stage train, up to date": [str(BIN / "axolotl"), "stage", "train"],
    "dvc repro, up to date": [str(BIN / "dvc"), "repro"],
    "dvc --version": [str(BIN / "dvc"), "--version"],
}
ROUNDS = 7


def main() -> None:
    rows = []
    for name, command in COMMANDS.items():
        seconds = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - started)
        rows.append([name, f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}"])
    describe("click", "pydantic", "dvc")
    table(["command", "median s", "slowest s"], rows)


if __name__ == "__main__":
    main()
