"""What many small datasets cost: seconds of fetch → pack, and of a run with nothing to do.

    python benchmarks/many_datasets.py [COUNT …]      # 100 and 500

Each dataset has 20 rows. The command is `axolotl stage pack`, start of Python and of its worker processes included.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe, table
from tokenize_rows import AXOLOTL, MODEL


def seconds(folder: Path, *words: str) -> float:
    started = time.perf_counter()
    subprocess.run([*AXOLOTL, "stage", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    lines = []
    for count in [int(word) for word in sys.argv[1:]] or [100, 500]:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            datasets = {}
            for i in range(count):
                rows = ({"instruction": f"Add {i} and {j}.", "output": f"It is {i + j}."} for j in range(20))
                (folder / f"d{i}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
                datasets[f"d{i}"] = {"path": f"d{i}.jsonl", "type": "alpaca"}
            params = {"model": {"base_model": MODEL}, "datasets": datasets, "packing": {"sequence_len": 512, "sample_packing": True}}
            (folder / "params.yaml").write_text(json.dumps(params))
            tokenizer = seconds(folder, "fetch-tokenizer")
            first, again = seconds(folder, "pack"), seconds(folder, "pack")
            lines.append((count, f"{tokenizer:.1f}", f"{first:.1f}", f"{first / count * 1000:.0f}", f"{again:.1f}"))
    describe("tokenizers", "pyarrow")
    table(["datasets", "fetch-tokenizer s", "fetch → pack s", "ms a dataset", "nothing to do s"], lines)


if __name__ == "__main__":
    main()
