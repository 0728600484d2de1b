"""axolotl plan"""

from pathlib import Path

import click

from axolotl_core.cli.planned import print_json, shown_with
from axolotl_core.cli.project import open_project, params_options
from axolotl_core.report.plan import as_json, plan_lines
from axolotl_core.stages.survey import Survey
from axolotl_core.terminal import say


@click.command("plan")
@params_options
@click.option("--remote", "-r", metavar="NAME", help="Which DVC remote is asked; unset: the default one.")
@click.option("--json", "as_document", is_flag=True, help="One JSON document, for programs.")
def command(params: Path, overrides: tuple[str, ...], remote: str | None, as_document: bool) -> None:
    """Show what a run would do with every stage, and why.

    A result may be here, in .axolotl/store, in DVC's cache or in its remote, which is asked for what lacks; else the stage would run. Of
    train it says the exact steps, rows and target tokens. No data, weights or GPU are needed.

    \b
    axolotl plan
    axolotl plan --set lora_r=16
    """
    project, config = open_project(params, overrides)
    plan = Survey(project, config).plan()
    shown = shown_with(project, config, plan, params, overrides, remote)
    if as_document:
        print_json(as_json(plan, shown))
    else:
        for line in plan_lines(plan, shown):
            say(line)
    project.stats.save()
