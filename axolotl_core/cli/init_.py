"""axolotl init"""

import shutil
import subprocess
from pathlib import Path

import click

from axolotl_core.cli.project import DVC, graph_of
from axolotl_core.cli.templates import DEFAULT, page, shipped, starter_data, template
from axolotl_core.errors import MachineError, ParamsError
from axolotl_core.params.load import load
from axolotl_core.stages.graph import ARTIFACTS, DATA
from axolotl_core.terminal import say

IGNORED_BY_GIT = f"/{ARTIFACTS}\n/.axolotl/\n/wandb\n/tensorboard\n/dvc_plots/\n"
IGNORED_BY_DVC = "__pycache__/\n.axolotl/\nwandb/\ntensorboard/\ndvc_plots/\n"
PAGE = "plots/page.html"
"""Below .dvc: the page of `dvc plots show`, with all it needs to be drawn without a network."""
DVC_SETTINGS = (
    ("core.analytics", "false"),
    ("core.check_update", "false"),
    ("cache.type", "reflink,copy"),
    ("plots.html_template", PAGE),
)


@click.command("init")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--from", "pipeline", default=DEFAULT, show_default=True, help="Pipeline to start from.")
@click.option("--remote", help="Where the team shares artifacts: a path, s3://…, ssh://… (a DVC remote).")
def command(folder: Path, pipeline: str, remote: str | None) -> None:
    """Start a project of your own.

    Makes FOLDER a git and DVC repository with params.yaml, dvc.yaml and data/. `dvc repro` in it runs.

    \b
    axolotl init my-project
    axolotl init my-project --from pythia-lora --remote s3://bucket/axolotl
    """
    source = template(pipeline)
    if folder.is_file():
        raise ParamsError(f"{folder}: is a file, wanted a folder to make the project in")
    if (folder / "params.yaml").exists() or (folder / "dvc.yaml").exists():
        raise ParamsError(f"{folder}: has a params.yaml or dvc.yaml already; choose an empty folder, or `axolotl upgrade` there")
    (folder / DATA).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / "params.yaml")
    (folder / "dvc.yaml").write_text(graph_of(load(folder / "params.yaml"), folder), encoding="utf-8")
    _append(folder / ".gitignore", IGNORED_BY_GIT)
    _append(folder / ".dvcignore", IGNORED_BY_DVC)
    for file in starter_data().iterdir() if pipeline == DEFAULT else ():
        if not (folder / DATA / file.name).exists():
            shutil.copyfile(file, folder / DATA / file.name)
    (folder / DATA / ".gitkeep").touch()  # dvc.yaml depends on the folder, and git knows no empty one
    own = not _inside_git(folder)
    if own:
        _call(["git", "init", "--quiet"], folder)
    if not (folder / ".dvc").is_dir():
        top = subprocess.run(["git", "rev-parse", "--show-toplevel"], cwd=folder, capture_output=True, text=True, check=True)
        below = Path(top.stdout.strip()).resolve() != folder.resolve()
        _call([*DVC, "init", "--quiet", *(["--subdir"] if below else [])], folder)
        if not own:  # DVC stages what it makes; what goes into somebody's repository is for them to say
            _call(["git", "rm", "-r", "--cached", "--quiet", "--ignore-unmatch", "--", ".dvc", ".dvcignore"], folder)
    (folder / ".dvc" / PAGE).parent.mkdir(exist_ok=True)
    shutil.copyfile(page(), folder / ".dvc" / PAGE)
    for name, value in DVC_SETTINGS:
        _call([*DVC, "config", "--quiet", name, value], folder)
    if remote:
        _call([*DVC, "remote", "add", "--quiet", "--default", "store", remote], folder)
        _call([*DVC, "remote", "modify", "--quiet", "store", "verify", "true"], folder)
    if own:
        _first_commit(folder)
    say(f"{folder} is ready, from the pipeline {pipeline} ({', '.join(shipped())} are there)")
    say(f"  cd {folder} && dvc repro")


def _first_commit(folder: Path) -> None:
    """So that DVC's commands that compare with the last commit work; git may not know who commits."""
    _call(["git", "add", "--all"], folder)
    done = subprocess.run(["git", "commit", "--quiet", "-m", "axolotl init"], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        say("  the first commit is yours: git does not know who you are (git config user.name, user.email), then `git commit`")


def _append(file: Path, text: str) -> None:
    have = file.read_text(encoding="utf-8") if file.is_file() else ""
    missing = [line for line in text.splitlines() if line not in have.splitlines()]
    file.write_text(have + "".join(line + "\n" for line in missing), encoding="utf-8")


def _inside_git(folder: Path) -> bool:
    try:
        found = subprocess.run(["git", "rev-parse", "--is-inside-work-tree"], cwd=folder, capture_output=True, check=False)
    except FileNotFoundError:
        raise MachineError("git is not installed, and DVC needs it; install git") from None
    return found.returncode == 0


def _call(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MachineError(f"{' '.join(command[-4:])} failed in {folder}: {(done.stderr or done.stdout).strip()}")
