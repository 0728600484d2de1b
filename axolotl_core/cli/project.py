"""What most commands begin with: the project in the current folder and its params, checked."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from axolotl_core import world
from axolotl_core.errors import ParamsError
from axolotl_core.params.load import load, sections_of
from axolotl_core.params.params import Params
from axolotl_core.prompts.resolve import files_read, format_of
from axolotl_core.sources.outside import adapter_files
from axolotl_core.stages.graph import dvc_yaml
from axolotl_core.stages.job import Project
from axolotl_core.terminal import warn

PARAMS = "params.yaml"
DVC = [sys.executable, "-P", "-m", "dvc"]
"""How dvc is called: that of this Python, which looks for no module in the current folder."""


def params_options(command: Any) -> Any:
    """--params and --set."""
    command = click.option(
        "overrides", "--set", multiple=True, metavar="OPTION=VALUE", help="Override an option, e.g. training.learning_rate=1e-4."
    )(command)
    return click.option("--params", "-p", type=click.Path(path_type=Path), default=PARAMS, show_default=True, help="The params file.")(
        command
    )


def _tell(message: str) -> None:
    if world.rank() == 0:
        warn(message)


def open_project(path: Path, overrides: Sequence[str] = (), *, anew: bool = False) -> tuple[Project, Params]:
    """The project of the current folder. Raises ParamsError for anything wrong, formats included.

    anew: files are digested once more, whatever is remembered of them.
    """
    params = load(path, overrides, tell=_tell)
    problems = []
    for name, data in params.datasets.items():
        try:
            format_of(data, Path.cwd())
        except ParamsError as error:
            problems.append(f"{sections_of(path)[0].place(('datasets', name, 'type'))}: datasets.{name}.type: {error}")
    if problems:
        raise ParamsError("\n".join(problems))
    return Project(Path.cwd(), anew), params


def graph_of(params: Params, root: Path) -> str:
    """dvc.yaml as it should be for these params: with the user's own files that tokenize and train read."""
    formats = [file for data in params.datasets.values() for file in files_read(data, root)]
    read = {"format": formats, "adapter": adapter_files(params, root)}
    return dvc_yaml(params.datasets, {outside: {os.path.relpath(file, root) for file in files} for outside, files in read.items()})
