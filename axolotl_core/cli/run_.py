"""axolotl run"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from axolotl_core.artifacts.scratch import write_atomically
from axolotl_core.cli import report_
from axolotl_core.cli.project import DVC, PARAMS, graph_of, open_project
from axolotl_core.cli.templates import keep, shipped, written
from axolotl_core.errors import ParamsError
from axolotl_core.params.document import read, text_of
from axolotl_core.params.edit import edited, with_sections
from axolotl_core.params.flat.translate import is_flat
from axolotl_core.params.load import place_of_override, sections_of
from axolotl_core.stages.graph import sections_wanted


@click.command("run")
@click.argument("source", required=False)
@click.option("overrides", "--set", multiple=True, metavar="OPTION=VALUE", help="Change an option in params.yaml first.")
def command(source: str | None, overrides: tuple[str, ...]) -> None:
    """Make a params file the active one and bring everything up to date.

    SOURCE is a params file or the name of a pipeline; without it params.yaml is run as it is. A params.yaml that you
    edited is kept beside the new one.

    \b
    axolotl run pipelines/smollm2-lora.yaml
    axolotl run --set adapter.lora_r=16
    """
    target = Path(PARAMS)
    file = target if source is None else _file(source)
    project, params = open_project(file, overrides)
    if not Path(".dvc").is_dir() or not Path("dvc.yaml").is_file():
        raise ParamsError("this folder is not an axolotl project, it lacks .dvc or dvc.yaml; `axolotl init DIR` makes one")
    graph = graph_of(params, project.root)
    if _without_deps(Path("dvc.yaml").read_text(encoding="utf-8")) != _without_deps(graph):
        raise ParamsError("dvc.yaml: was not written by this version of axolotl; run `axolotl upgrade`")
    activate(file, target, overrides)
    write_atomically(Path("dvc.yaml"), graph.encode())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # dvc calls `axolotl`
    before = signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for the stage that runs, whose status ends dvc
    try:
        done = subprocess.run([*DVC, "repro"], env={**os.environ, "PATH": path}, check=False)
    finally:
        signal.signal(signal.SIGINT, before)
    if done.returncode:
        sys.exit(done.returncode)
    report_.show(Path.cwd())


def _without_deps(graph: str) -> Any:
    """dvc.yaml but for what it depends on, which follows from the params. Raises ParamsError where it is not YAML."""
    try:
        document = YAML(typ="safe", pure=True).load(graph)
    except YAMLError:
        raise ParamsError("dvc.yaml: not valid YAML; run `axolotl upgrade`") from None
    stages = document.get("stages", {}) if isinstance(document, dict) else {}
    for stage in stages.values() if isinstance(stages, dict) else ():
        inner = stage.get("do", stage) if isinstance(stage, dict) else None
        if isinstance(inner, dict):
            inner.pop("deps", None)
    return document


def activate(file: Path, target: Path, overrides: tuple[str, ...]) -> None:
    """Put the file's content, with the overrides, into params.yaml.

    What is written keeps comments, order and spelling. A params.yaml that another file takes the place of is kept under another name.
    """
    document = read(file)
    if is_flat(document.values) or isinstance(document.values.get("datasets"), list):
        new = written(sections_of(file)[0])
    else:
        new = with_sections(text_of(file), sections_wanted())
    for text in overrides:
        new = edited(new, place_of_override(text), text.partition("=")[2])
    old = text_of(target) if target.is_file() else None
    if old == new:
        return
    if old is not None and not _same_file(file, target):
        keep(target)
    write_atomically(target, new.encode())


def _same_file(file: Path, target: Path) -> bool:
    return target.is_file() and file.is_file() and file.samefile(target)


def _file(source: str) -> Path:
    if Path(source).is_file():
        return Path(source)
    if source in shipped():
        return shipped()[source]
    raise ParamsError(f"{source}: neither a file nor a pipeline; the pipelines are {', '.join(shipped())}")
