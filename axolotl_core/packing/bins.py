"""Which samples share a row: best-fit decreasing over the whole set at once.

Lengths are small integers, so the algorithm works on counts instead of samples. `free[r]` holds the bins with r
tokens left. For each length from the longest to the shortest:

    1. take the fullest bins it fits into (the smallest r ≥ length)
    2. each of them takes floor(r / length) samples at once, which is what best fit does one by one
    3. what finds no bin opens new ones

    lengths [3, 3, 2, 2, 2], capacity 5 → rows {3,2} {3,2} {2}

Best-fit decreasing needs at most 11/9 of the fewest bins plus a constant (Johnson 1973); on real length distributions
it stays within a thousandth of the lower bound ceil(Σ lengths / capacity).
"""

import numpy as np


def pack_lengths(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Bin number of each sample, int64, 0 ≤ bin < number of bins; a bin's lengths sum to at most `capacity`.

    The same input gives the same bins everywhere; among equal lengths the earlier sample is placed first.
    Raises ValueError for a length outside 1..capacity.
    """
    if len(lengths) == 0:
        return np.zeros(0, np.int64)
    if lengths.min() < 1 or lengths.max() > capacity:
        raise ValueError(f"lengths are {lengths.min()} to {lengths.max()}, wanted 1 to {capacity}")
    order = np.argsort(capacity - lengths.astype(np.int32), kind="stable")
    counts = np.bincount(lengths, minlength=capacity + 1)
    bin_of = np.empty(len(lengths), np.int64)
    free = _Free(capacity)
    bins = done = 0
    for length in np.flatnonzero(counts)[::-1].tolist():
        samples = order[done : done + int(counts[length])]
        done += len(samples)
        while len(samples):
            room = free.fullest(length)
            if room is None:
                room = capacity
                new = -(-len(samples) // (capacity // length))
                free.put(room, np.arange(bins, bins + new))
                bins += new
            each = room // length
            takers = free.take(room, -(-len(samples) // each))
            full = len(samples) // each if len(takers) * each > len(samples) else len(takers)
            bin_of[samples[: full * each]] = np.repeat(takers[:full], each)
            free.put(room - each * length, takers[:full])
            if full < len(takers):  # the last taker gets what is left, fewer than `each`
                rest = samples[full * each :]
                bin_of[rest] = takers[full]
                free.put(room - len(rest) * length, takers[full:])
            samples = samples[len(takers) * each :]
    return bin_of


class _Free:
    """Bins by the room left in them: `rooms[r]` is a stack of arrays of bin numbers."""

    def __init__(self, capacity: int) -> None:
        self.rooms: list[list[np.ndarray]] = [[] for _ in range(capacity + 1)]
        self.some = np.zeros(capacity + 1, bool)

    def fullest(self, length: int) -> int | None:
        """The smallest room ≥ length that any bin has."""
        found = length + int(self.some[length:].argmax())
        return found if self.some[found] else None

    def put(self, room: int, bins: np.ndarray) -> None:
        if len(bins):
            self.rooms[room].append(bins)
            self.some[room] = True

    def take(self, room: int, wanted: int) -> np.ndarray:
        """At most `wanted` bins of this room."""
        stack, taken = self.rooms[room], []
        while wanted and stack:
            bins = stack.pop()
            if len(bins) > wanted:
                stack.append(bins[wanted:])
                bins = bins[:wanted]
            taken.append(bins)
            wanted -= len(bins)
        self.some[room] = bool(stack)
        return np.concatenate(taken)


def members(bin_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Samples grouped by bin: (samples, offsets); bin b holds samples[offsets[b]:offsets[b + 1]], in their order."""
    counts = np.bincount(bin_of) if len(bin_of) else np.zeros(0, np.int64)
    return np.argsort(bin_of, kind="stable"), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
