"""axolotl view"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from axolotl_core.artifacts import manifest
from axolotl_core.artifacts.scratch import write_atomically
from axolotl_core.cli.planned import print_json
from axolotl_core.cli.project import open_project, params_options
from axolotl_core.errors import ParamsError, nearest
from axolotl_core.params.params import Params
from axolotl_core.report.masks import bars, mask_report
from axolotl_core.stages.job import Project
from axolotl_core.stages.run import run
from axolotl_core.terminal import printable, say, styled


@click.group("view")
def command() -> None:
    """Look at what will be trained on.

    \b
    axolotl view tokens --dataset faq --row 3         a row: trained and untrained text, special tokens
    axolotl view tokens --row 3 --html row.html       the same as a page
    axolotl view masks                                the mask report of every dataset
    """


def _dataset_option(text: str) -> Any:
    return click.option("--dataset", "-d", metavar="NAME", help=text)


@command.command("tokens")
@params_options
@_dataset_option("Which dataset; the first one if not given.")
@click.option("--row", "-r", type=int, default=1, show_default=True, help="Which row of it, counted from 1.")
@click.option("--html", "page", type=click.Path(path_type=Path), metavar="FILE", help="Write a page instead.")
@click.option("--color/--no-color", default=None, help="Colours; else only in a terminal.")
def tokens(params: Path, overrides: tuple[str, ...], dataset: str | None, row: int, page: Path | None, color: bool | None) -> None:
    """Show a row as it is trained on.

    Trained text is green, text that is not trained grey, special tokens stand out. Without colours trained text stands
    in ⟦ ⟧. Brings tokenize up to date first.
    """
    from axolotl_core.report import rows as view
    from axolotl_core.tokens.tokenizer import read_tokenizer

    project, config = open_project(params, overrides)
    name = _tokenized(project, config, dataset)[0]
    with manifest.opened(project.artifacts, (f"raw/{name}", f"tokens/{name}", "tokenizer"), project.stats.digest) as at:
        shown = view.show(at / "raw" / name, at / "tokens" / name, read_tokenizer(at / "tokenizer"), row)
    if page is not None:
        write_atomically(page, view.page(f"{name}, row {row}", shown).encode())
        say(f"wrote {page}")
        return
    say(f"{name}, row {row}: {shown.place}, {shown.tokens:,} tokens, {shown.trained:,} trained\n")
    coloured = sys.stdout.isatty() if color is None else color
    if coloured:
        styled("".join(map(_styled, shown.runs)))
    else:
        say(view.marked(shown.runs))


@command.command("masks")
@params_options
@_dataset_option("Only this dataset.")
@click.option("--json", "as_document", is_flag=True, help="One JSON document, for programs.")
def masks(params: Path, overrides: tuple[str, ...], dataset: str | None, as_document: bool) -> None:
    """Show the mask report: what is trained by role, what looks wrong, how long rows are.

    Brings tokenize up to date first.
    """
    project, config = open_project(params, overrides)
    names = _tokenized(project, config, dataset, every=True)
    metrics, plots = project.artifacts / "metrics" / "masks", project.artifacts / "plots" / "lengths"
    reports = {name: json.loads((metrics / f"{name}.json").read_text(encoding="utf-8")) for name in names}
    if as_document:
        print_json(reports)
        return
    for name, report in reports.items():
        say(f"{name}\n{mask_report(report)}\n{bars((plots / f'{name}.csv').read_text(encoding='utf-8'))}\n")


def _tokenized(project: Project, params: Params, dataset: str | None, *, every: bool = False) -> list[str]:
    """The datasets meant, tokenised; what the stage says goes to stderr."""
    names = sorted(params.datasets)
    if dataset is not None and dataset not in names:
        raise ParamsError(f"no dataset is called '{dataset}'{nearest(dataset, names)}; there are {', '.join(names)}")
    chosen = [dataset] if dataset else names if every else list(params.datasets)[:1]
    with contextlib.redirect_stdout(sys.stderr):
        for name in chosen:
            run(project, params, f"tokenize@{name}")
    return chosen


def _styled(run: Any) -> str:
    colour = "green" if run.trained else "bright_black"
    return click.style(printable(run.text), fg=colour, reverse=run.special or None)
