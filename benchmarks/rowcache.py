"""What the row cache takes: memory and seconds to open one and to find rows in it, by the tokens that it holds.

    python benchmarks/rowcache.py [TOKENS …]      # 10 and 100 million

The cache is generated: rows of 300 random tokens. Memory is anonymous memory (RssAnon): pages of mapped files are the kernel's,
which takes them back when it needs them. A block is 1,000 rows, half of them in the cache.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import describe, table

from axolotl_core.tokens.encoded import STATS, Encoded
from axolotl_core.tokens.rowcache import FILE_TOKENS, RowCache, to_batch, write_file

ROW_TOKENS, BLOCK, BLOCKS = 300, 1000, 50


def anonymous_mib() -> float:
    """Memory of this process that is no file's, in MiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def fill(folder: Path, tokens: int, draw: np.random.Generator) -> np.ndarray:
    """Write a cache of so many tokens; the digests of some of its rows."""
    known = []
    for _ in range(max(1, tokens // FILE_TOKENS)):
        count = min(tokens, FILE_TOKENS) // ROW_TOKENS
        ids = draw.integers(0, 50_000, count * ROW_TOKENS, dtype=np.int32)
        offsets = np.arange(0, len(ids) + 1, ROW_TOKENS)
        rows = Encoded(ids, ids, offsets, np.zeros((count, len(STATS)), np.int32), [""] * count, [None] * count, np.zeros(count, bool))
        digests = draw.integers(0, 2**63, (count, 2), dtype=np.uint64)
        write_file(folder, to_batch(digests, rows))
        known.append(digests[: BLOCK // 2])
    return np.concatenate(known)


def main() -> None:
    sizes = [int(float(text)) for text in sys.argv[1:]] or [10**7, 10**8]
    draw = np.random.default_rng(0)
    lines = []
    for tokens in sizes:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            known = fill(folder, tokens, draw)
            before = anonymous_mib()
            started = time.perf_counter()
            cache = RowCache(folder, {})
            opened = time.perf_counter() - started
            holds = anonymous_mib() - before
            seconds, most = [], 0.0
            for _ in range(BLOCKS):
                chosen = known[draw.integers(0, len(known), BLOCK // 2)]
                digests = np.concatenate([chosen, draw.integers(0, 2**63, (BLOCK // 2, 2), dtype=np.uint64)])
                started = time.perf_counter()
                files, rows = cache.find(digests)
                parts, _, _ = cache.rows(files, rows)
                seconds.append(time.perf_counter() - started)
                assert sum(map(len, parts)) == BLOCK // 2
                most = max(most, anonymous_mib() - before)
            size = sum(file.stat().st_size for file in folder.iterdir())
            first, later = seconds[0], float(np.median(seconds[1:]))
            lines.append(
                (
                    f"{tokens:,}",
                    f"{size / 2**20:,.0f}",
                    f"{opened:.3f}",
                    f"{holds:.1f}",
                    f"{first:.2f}",
                    f"{later * 1000:.1f}",
                    f"{most:.1f}",
                )
            )
    describe("pyarrow", "numpy")
    table(["tokens", "MiB on disk", "open s", "MiB held", "first block s", "a block ms", "most MiB"], lines)


if __name__ == "__main__":
    main()
