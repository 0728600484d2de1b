"""axolotl stage"""

import os
from collections.abc import Sequence
from pathlib import Path

import click

from axolotl_core import world
from axolotl_core.cli.project import PARAMS, open_project, params_options
from axolotl_core.errors import ParamsError
from axolotl_core.stages.graph import GROUPS, chosen
from axolotl_core.stages.run import run
from axolotl_core.terminal import say

OTHER_PARAMS = (
    "DVC has not recorded this: it was run with other params than params.yaml; `axolotl run` with the same ones makes them active"
)


@click.command("stage")
@click.argument("name")
@params_options
@click.option("--only", is_flag=True, help="Just this stage; what it reads must be there.")
@click.option("--force", is_flag=True, help="Run it even if it is up to date, on files that are read again.")
@click.option("--verify", is_flag=True, help="Read every file again, sources and artifacts, and believe no size or time.")
@click.option("--branch-from", type=click.Path(path_type=Path), help="train: resume from this checkpoint of another run.")
@click.option("--revision", type=int, hidden=True, help="The code identity that dvc.yaml was written for.")
def command(
    name: str,
    params: Path,
    overrides: tuple[str, ...],
    only: bool,
    force: bool,
    verify: bool,
    branch_from: Path | None,
    revision: int | None,
) -> None:
    """Bring one stage up to date, and all it reads, without DVC.

    NAME is fetch, tokenize, pack, train, evaluate, merge or export; `tokenize@faq` is that of one dataset.

    \b
    axolotl stage pack                        prepare data on a machine without a GPU
    axolotl stage train --set lora_r=16       try another rank
    axolotl stage tokenize@faq --only         just that
    """
    bring(name, params, overrides, only=only, force=force, verify=verify, branch_from=branch_from, revision=revision)


def bring(
    name: str,
    params: Path,
    overrides: Sequence[str],
    *,
    only: bool = False,
    force: bool = False,
    verify: bool = False,
    branch_from: Path | None = None,
    revision: int | None = None,
) -> None:
    """Bring a stage up to date. Raises AxolotlError."""
    project, config = open_project(params, overrides, anew=(force or verify) and not world.launched())
    for step in chosen(name, config.datasets):
        if revision is not None and revision != step.stage.revision:
            raise ParamsError(
                f"dvc.yaml asks for revision {revision} of {step.stage.name}, this axolotl has {step.stage.revision}; run `axolotl upgrade`"
            )
    try:
        built = run(project, config, name, only=only, force=force, branch=branch_from.expanduser() if branch_from else None)
    finally:
        if world.rank() == 0:
            project.stats.save()
    if built and world.rank() == 0 and "DVC_STAGE" not in os.environ and (project.root / ".dvc" / "config").is_file():
        same = params.resolve() == (project.root / PARAMS).resolve() and not overrides
        target = "" if name in GROUPS else f" {name}"
        say(f"DVC has not recorded this; `dvc repro{target}` does, and computes none of it again" if same else OTHER_PARAMS)
