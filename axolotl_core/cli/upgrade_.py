"""axolotl upgrade"""

from pathlib import Path

import click

from axolotl_core.artifacts.scratch import write_atomically
from axolotl_core.cli.project import PARAMS, graph_of
from axolotl_core.params.load import load
from axolotl_core.terminal import say


@click.command("upgrade")
def command() -> None:
    """Rewrite dvc.yaml for the installed version.

    It also names the datasets of params.yaml and the files that formats read. Stages whose code gives other bytes than
    before have a higher revision there, and run again; no other does.
    """
    path = Path("dvc.yaml")
    new = graph_of(load(Path(PARAMS)), Path.cwd())
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    if old == new:
        say("dvc.yaml is up to date")
        return
    write_atomically(path, new.encode())
    was, now = _revisions(old), _revisions(new)
    changed = [f"{name} {was.get(name, 'new')} → {revision}" for name, revision in now.items() if was.get(name) != revision]
    say(f"wrote dvc.yaml; stages of another revision, which run again: {', '.join(changed) or 'none'}")


def _revisions(text: str) -> dict[str, str]:
    """`cmd: axolotl stage pack --only --revision 1` → {"pack": "1"}."""
    words = [line.split() for line in text.splitlines() if "cmd: axolotl stage" in line and "--revision" in line]
    return {line[3].partition("@")[0]: line[-1] for line in words}
