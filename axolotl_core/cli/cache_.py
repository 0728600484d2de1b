"""axolotl cache"""

import re
import subprocess
import sys
import time
from pathlib import Path

import click

from axolotl_core.artifacts.checkpoints import finished_runs
from axolotl_core.errors import ParamsError
from axolotl_core.terminal import say
from axolotl_core.tokens.contexts import contexts, remove, trim

SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
DAY_S = 86_400


@click.command("cache")
@click.option("--trim", "size", metavar="SIZE", help="Remove what was not used for longest until no more than SIZE is left: 500M, 10G.")
@click.option("--older", type=int, metavar="DAYS", help="Remove what was not used for so many days.")
@click.option("--clear", is_flag=True, help="Remove all of it.")
def command(size: str | None, older: int | None, clear: bool) -> None:
    """Show the row cache and the finished runs in .axolotl, or trim them.

    Rows that were tokenised before, and the last checkpoint of each finished training. Losing them costs time only. A run
    that was interrupted is never touched. In a DVC project it also says what `dvc gc` would free.

    \b
    axolotl cache
    axolotl cache --trim 10G
    """
    folder = Path.cwd() / ".axolotl"
    rows, runs = contexts(folder / "rows"), finished_runs(folder / "runs")
    if clear or older is not None or size is not None:
        gone = remove([kept for kept in (*rows, *runs) if clear or (older is not None and time.time() - kept.used_s > older * DAY_S)])
        left = [*contexts(folder / "rows"), *finished_runs(folder / "runs")]
        gone += trim(left, _bytes(size)) if size is not None else 0
        say(f"removed {_shown(gone)}")
        rows, runs = contexts(folder / "rows"), finished_runs(folder / "runs")
    for context in rows:
        say(f"{context.dataset:<16} {context.type:<28} {context.rows:>12,} rows  {_shown(context.bytes):>9}  {_used(context.used_s)}")
    for run in runs:
        say(f"{'run':<16} {run.folder.name[:12]:<28} {run.step:>11,} steps  {_shown(run.bytes):>9}  {_used(run.used_s)}")
    say(f"{_shown(sum(kept.bytes for kept in (*rows, *runs)))} in {folder}")
    if (Path.cwd() / ".dvc").is_dir():
        objects = unused_by_dvc(Path.cwd())
        size = sum(file.stat().st_size for file in objects if file.is_file())
        say(f"`dvc gc --workspace` would free {_shown(size)} of DVC's cache: {len(objects)} objects that artifacts/ has not now")
        say("  (results of earlier params among them; `dvc push` first if they are to be kept)")


def unused_by_dvc(root: Path) -> list[Path]:
    """Objects of DVC's cache that `dvc gc --workspace` would remove."""
    dry = [sys.executable, "-P", "-m", "dvc", "gc", "--workspace", "--dry", "--force"]
    said = subprocess.run(dry, cwd=root, capture_output=True, text=True, check=False).stdout
    return [Path(line.removeprefix("Removing ").strip()) for line in said.splitlines() if line.startswith("Removing ")]


def _used(seconds: float) -> str:
    return f"last used {time.strftime('%Y-%m-%d %H:%M', time.localtime(seconds))}"


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
