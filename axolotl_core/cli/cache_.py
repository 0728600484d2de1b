"""axolotl cache"""

import re
import subprocess
import time
from pathlib import Path
from typing import Any

import click

from axolotl_core.artifacts.store import Result, results
from axolotl_core.checkpoints.format import Run, finished_runs
from axolotl_core.cli.planned import print_json
from axolotl_core.cli.project import DVC
from axolotl_core.errors import ParamsError
from axolotl_core.terminal import say
from axolotl_core.tokens.contexts import Context, contexts, remove, trim

SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
DAY_S = 86_400


@click.command("cache")
@click.option("--trim", "size", metavar="SIZE", help="Remove what was not used for longest until no more than SIZE is left: 500M, 10G.")
@click.option("--older", type=int, metavar="DAYS", help="Remove what was not used for so many days.")
@click.option("--clear", is_flag=True, help="Remove all of it.")
@click.option("--json", "as_document", is_flag=True, help="One JSON document, for programs.")
def command(size: str | None, older: int | None, clear: bool, as_document: bool) -> None:
    """Show the caches and the finished runs in .axolotl, or trim them.

    Rows that were tokenised before, finished results of every stage, and the last checkpoint of each finished training. Losing
    them costs time only. A run that was interrupted is never touched. Of a result only what artifacts/ has not too is counted.
    In a DVC project it also says what `dvc gc` would free.

    \b
    axolotl cache
    axolotl cache --trim 10G
    """
    folder = Path.cwd() / ".axolotl"
    rows, made, runs = _kept(folder)
    if clear or older is not None or size is not None:
        every = (*rows, *made, *runs)
        gone = remove([kept for kept in every if clear or (older is not None and time.time() - kept.used_s > older * DAY_S)])
        gone += trim([kept for kind in _kept(folder) for kept in kind], _bytes(size)) if size is not None else 0
        if not as_document:
            say(f"removed {_shown(gone)}")
        rows, made, runs = _kept(folder)
    if as_document:
        print_json(_document(rows, made, runs))
        return
    for context in rows:
        say(f"{context.dataset:<16} {context.type:<28} {context.rows:>12,} rows  {_shown(context.bytes):>9}  {_used(context.used_s)}")
    for stage in dict.fromkeys(result.stage for result in made):
        of = [result for result in made if result.stage == stage]
        size_of = _shown(sum(result.bytes for result in of))
        say(f"{'results':<16} {stage:<28} {len(of):>14,} kept  {size_of:>9}  {_used(of[0].used_s)}")
    for run in runs:
        say(f"{'run':<16} {run.folder.name[:12]:<28} {run.step:>11,} steps  {_shown(run.bytes):>9}  {_used(run.used_s)}")
    say(f"{_shown(sum(kept.bytes for kept in (*rows, *made, *runs)))} in {folder}")
    if (Path.cwd() / ".dvc").is_dir():
        objects = unused_by_dvc(Path.cwd())
        size = sum(file.stat().st_size for file in objects if file.is_file())
        say(f"`dvc gc --workspace` would free {_shown(size)} of DVC's cache: {len(objects)} objects that artifacts/ has not now")
        say("  (results of earlier params among them; `axolotl push` first if they are to be kept)")


def _document(rows: list[Context], made: list[Result], runs: list[Run]) -> dict[str, Any]:
    """Sizes in bytes, times in seconds since 1970."""
    return {
        "rows": [{"dataset": c.dataset, "type": c.type, "rows": c.rows, "bytes": c.bytes, "used_s": c.used_s} for c in rows],
        "results": [{"stage": r.stage, "key": r.folder.name, "bytes": r.bytes, "used_s": r.used_s} for r in made],
        "runs": [{"key": run.folder.name, "step": run.step, "bytes": run.bytes, "used_s": run.used_s} for run in runs],
        "bytes": sum(kept.bytes for kept in (*rows, *made, *runs)),
    }


def _kept(folder: Path) -> tuple[list[Context], list[Result], list[Run]]:
    """Contexts of the row cache, results, finished runs: each kind with those used last first."""
    return contexts(folder / "rows"), results(folder / "store"), finished_runs(folder / "runs")


def unused_by_dvc(root: Path) -> list[Path]:
    """Objects of DVC's cache that `dvc gc --workspace` would remove."""
    dry = [*DVC, "gc", "--workspace", "--dry", "--force"]
    output = subprocess.run(dry, cwd=root, capture_output=True, text=True, check=False).stdout
    return [Path(line.removeprefix("Removing ").strip()) for line in output.splitlines() if line.startswith("Removing ")]


def _used(seconds: float) -> str:
    return f"last used {time.strftime('%Y-%m-%d %H:%M', time.localtime(seconds))}"


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([kmgt])i?b?|b)|0", text.strip().lower())
    if match is None:
        raise ParamsError(f"--trim {text}: got no size, wanted a number with its unit such as 500M or 10G")
    return int(float(match[1] or 0) * SIZES[match[2] or ""])


def _shown(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
