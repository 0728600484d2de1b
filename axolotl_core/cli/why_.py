"""axolotl why"""

from pathlib import Path

import click

from axolotl_core.cli.planned import print_json, shown_with
from axolotl_core.cli.project import open_project, params_options
from axolotl_core.report.plan import as_json, why_lines
from axolotl_core.stages.graph import chosen, steps, upstream
from axolotl_core.stages.survey import Survey
from axolotl_core.terminal import say


@click.command("why")
@params_options
@click.argument("name", required=False)
@click.option("--json", "as_document", is_flag=True, help="One JSON document, for programs.")
def command(params: Path, overrides: tuple[str, ...], name: str | None, as_document: bool) -> None:
    """Say whether a stage is up to date, and what has changed where it is not.

    NAME is a stage as in `axolotl stage NAME`; unset: all of them. What is compared is how the present artifact was made: options of
    params.yaml, digests of files with their rows, revisions of stages, artifacts that are read. No data, weights or GPU are needed.

    \b
    axolotl why train
    axolotl why --json
    """
    project, config = open_project(params, overrides)
    every = steps(config.datasets)
    chain = [step.name for step in (upstream(chosen(name, config.datasets), config.datasets) if name else every)]
    plan = Survey(project, config).plan()
    shown = shown_with(project, config, plan, params, overrides)
    if as_document:
        print_json(as_json([planned for planned in plan if planned.step.name in chain], shown))
    else:
        for line in why_lines(plan, shown, chain):
            say(line)
    project.stats.save()
