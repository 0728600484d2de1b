"""axolotl cache"""

import re
import time
from pathlib import Path

import click

from axolotl_core.errors import ParamsError
from axolotl_core.tokens.contexts import contexts, remove, trim

SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
DAY_S = 86_400


@click.command("cache")
@click.option("--trim", "size", metavar="SIZE", help="Remove what was not used for longest until no more than SIZE is left: 500M, 10G.")
@click.option("--older", type=int, metavar="DAYS", help="Remove what was not used for so many days.")
@click.option("--clear", is_flag=True, help="Remove all of it.")
def command(size: str | None, older: int | None, clear: bool) -> None:
    """Show the row cache in .axolotl/rows, or trim it.

    It holds rows that were tokenised before. Losing them costs time only.

    \b
    axolotl cache
    axolotl cache --trim 10G
    """
    folder = Path.cwd() / ".axolotl" / "rows"
    found = contexts(folder)
    if clear or older is not None or size is not None:
        gone = remove([c for c in found if clear or (older is not None and time.time() - c.used_s > older * DAY_S)])
        gone += trim(contexts(folder), _bytes(size)) if size is not None else 0
        click.echo(f"removed {_shown(gone)}")
        found = contexts(folder)
    for context in found:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(context.used_s))
        told = f"{context.rows:>12,} rows  {_shown(context.bytes):>9}  last used {used}"
        click.echo(f"{context.dataset:<16} {context.type:<28} {told}")
    click.echo(f"{_shown(sum(c.bytes for c in found))} in {folder}")


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)i?b?", text.strip().lower())
    if match is None:
        raise ParamsError(f"--trim {text}: got no size, wanted a number of bytes such as 500M or 10G")
    return int(float(match[1]) * SIZES[match[2]])


def _shown(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
