"""axolotl plan"""

from pathlib import Path

import click

from axolotl_core.cli.project import open_project, params_options
from axolotl_core.stages.graph import makers
from axolotl_core.stages.plan import plan
from axolotl_core.terminal import say


@click.command("plan")
@params_options
def command(params: Path, overrides: tuple[str, ...]) -> None:
    """Show every stage, what it reads, and whether it would run and why.

    \b
    axolotl plan
    axolotl plan --set lora_r=16
    """
    project, whole = open_project(params, overrides)
    found = list(plan(project, whole))
    every = [step for step, _ in found]
    width = max(len(step.name) for step in every)
    for step, reason in found:
        reads = [maker.name for maker in makers(step, every)]
        each = [name for name in reads if "@" in name]
        shown = [f"{each[0].partition('@')[0]}@…", *(name for name in reads if "@" not in name)] if len(each) > 1 else reads
        say(f"{step.name:<{width}}  {'runs' if reason else '-':<4}  {reason or 'up to date'}")
        if reads:
            say(f"{'':<{width}}        reads {', '.join(shown)}")
    count = sum(reason is not None for _, reason in found)
    say(f"{count} of {len(found)} stages would run" if count else "everything is up to date")
    project.stats.save()
