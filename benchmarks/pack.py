"""Planning the packing of 1,000,000 samples, against laying them out in their order.

python benchmarks/pack.py
"""

import statistics
import time

import numpy as np
from machine import describe, table

from axolotl_core.packing.bins import members, pack_lengths
from axolotl_core.packing.plan import fit, lay_out

SAMPLES, CAPACITY, ROUNDS = 1_000_000, 4096, 7


def lengths_of(samples: int) -> np.ndarray:
    """Log-normal lengths with a mean of about 400, from seed 0."""
    draw = np.random.default_rng(0).lognormal(np.log(400) - 0.32, 0.8, samples)
    return np.clip(draw.astype(np.int64), 1, CAPACITY)


def sequential(lengths: np.ndarray) -> int:
    """Rows when samples are collated one after the other in their order: the least that one can do."""
    rows, room = 0, 0
    for length in lengths.tolist():
        if length > room:
            rows, room = rows + 1, CAPACITY
        room -= length
    return rows


def main() -> None:
    lengths = lengths_of(SAMPLES)
    bound = -(-int(lengths.sum()) // CAPACITY)
    bins_s, plan_s, alone_s, count = [], [], [], 0
    for _ in range(ROUNDS):
        started = time.perf_counter()
        bins = pack_lengths(lengths, CAPACITY)
        bins_s.append(time.perf_counter() - started)
        members(bins)
        plan_s.append(time.perf_counter() - started)
        count = int(bins.max()) + 1
        pieces, _ = fit(0, lengths, CAPACITY, "drop")
        started = time.perf_counter()
        lay_out(pieces, CAPACITY, packed=True)
        alone_s.append(time.perf_counter() - started)
    assert np.bincount(bins, weights=lengths).max() <= CAPACITY
    started = time.perf_counter()
    plain = sequential(lengths)
    plain_s = time.perf_counter() - started
    describe("numpy")
    print(f"{SAMPLES:,} samples, mean {lengths.mean():.0f} tokens, capacity {CAPACITY}, lower bound {bound:,} rows; median of {ROUNDS}\n")
    table(
        ["what", "seconds", "rows", "÷ lower bound"],
        [
            ["best-fit decreasing, which row each sample is in", f"{statistics.median(bins_s):.3f}", f"{count:,}", f"{count / bound:.5f}"],
            ["… and the samples of each row", f"{statistics.median(plan_s):.3f}", f"{count:,}", f"{count / bound:.5f}"],
            ["… as stage pack lays it out", f"{statistics.median(alone_s):.3f}", f"{count:,}", f"{count / bound:.5f}"],
            ["in their order, a Python loop", f"{plain_s:.3f}", f"{plain:,}", f"{plain / bound:.5f}"],
        ],
    )


if __name__ == "__main__":
    main()
