"""axolotl report"""

import json
from pathlib import Path

import click

from axolotl_core.artifacts import manifest
from axolotl_core.cli.planned import print_json
from axolotl_core.report.evaluation import report_lines
from axolotl_core.stages.graph import ARTIFACTS
from axolotl_core.terminal import say


@click.command("report")
@click.option("--json", "as_document", is_flag=True, help="One JSON document, for programs.")
def command(as_document: bool) -> None:
    """Show what training changed: losses and replies."""
    show(Path.cwd(), as_document=as_document)


def show(root: Path, *, as_document: bool = False) -> None:
    """From artifacts/evaluation. Raises ArtifactError when there is none."""
    artifacts = root / ARTIFACTS
    manifest.verify(artifacts / "evaluation")
    report = json.loads((artifacts / "evaluation" / "report.json").read_text(encoding="utf-8"))
    if as_document:
        print_json(report)
        return
    for line in report_lines(report):
        say(line)
    say(f"\n  adapter          {ARTIFACTS}/adapter")
    say(f"  merged model     {ARTIFACTS}/export")
    say("  chat with it     axolotl inference\n")
