"""How far something is that takes its time: nothing for five seconds, then a bar in a terminal, or a line every ten seconds."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from axolotl_core import world
from axolotl_core.terminal import printable, warn

AFTER_S, LINE_EVERY_S = 5.0, 10.0
Item = TypeVar("Item")


def progress(
    items: Iterable[Item], total: int | None, what: str, unit: str = "batches", size: Callable[[Item], int] = lambda _: 1
) -> Iterator[Item]:
    """The items, with progress on standard error by rank 0.

    size: what an item counts for; total: the sum of that, None if not known.
    """
    if world.rank() != 0:
        yield from items
        return
    from tqdm import tqdm  # half of the commands never need it

    terminal = sys.stderr.isatty()
    started = last = time.monotonic()
    done = 0
    with tqdm(
        total=total, desc=f"  {printable(what)}", unit=f" {unit}", delay=AFTER_S, leave=False, disable=not terminal, dynamic_ncols=True
    ) as bar:
        for item in items:
            yield item
            step = size(item)
            done += step
            bar.update(step)
            now = time.monotonic()
            if not terminal and now - started > AFTER_S and now - last >= LINE_EVERY_S:
                last = now
                warn(f"  {what}: {_said(done, total, unit, now - started)}")


def _said(done: int, total: int | None, unit: str, seconds: float) -> str:
    if not total:
        return f"{done:,} {unit} in {clock(seconds)}"
    return f"{done:,} of {total:,} {unit}, {clock(seconds / max(1, done) * (total - done))} left"


def clock(seconds: float) -> str:
    """
    >>> clock(75), clock(3725)
    ('1:15', '1:02:05')
    """
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"
