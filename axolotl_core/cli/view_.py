"""axolotl view"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import click

from axolotl_core.artifacts import manifest
from axolotl_core.artifacts.scratch import write_atomically
from axolotl_core.cli.project import open_project, params_options
from axolotl_core.errors import ParamsError, nearest
from axolotl_core.params.params import Params
from axolotl_core.stages.job import Project
from axolotl_core.stages.run import run
from axolotl_core.terminal import printable, say, styled

BAR = 40


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

    project, whole = open_project(params, overrides)
    name = _tokenized(project, whole, dataset)[0]
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
def masks(params: Path, overrides: tuple[str, ...], dataset: str | None) -> None:
    """Show the mask report: what is trained by role, what looks wrong, how long rows are.

    Brings tokenize up to date first.
    """
    project, whole = open_project(params, overrides)
    for name in _tokenized(project, whole, dataset, every=True):
        report = json.loads((project.artifacts / "metrics" / "masks" / f"{name}.json").read_text(encoding="utf-8"))
        lengths = (project.artifacts / "plots" / "lengths" / f"{name}.csv").read_text(encoding="utf-8")
        say(f"{name}\n{_report(report)}\n{_bars(lengths)}\n")


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


def _report(report: dict[str, Any]) -> str:
    lines = [f"  {report['rows']:,} rows, {report['tokens']:,} tokens, {report['trained_share']:.0%} trained"]
    for role, of in report["roles"].items():
        lines.append(f"  {role:<12} {of['tokens']:>12,} tokens, {of['share']:>5.0%} trained")
    lines.append(f"  {report['turns']:,} answers, {report['turns_whose_end_is_not_trained']:,} whose end is not trained")
    lines.append(f"  {report['rows_without_trained_token']:,} rows without a target token (dropped)")
    lines.append(f"  {report['rows_not_given_back']:,} rows whose ids do not give the text back")
    (how, count), *_ = report["special_tokens_in_fields"].items()
    lines.append(f"  {count:,} special tokens in fields, taken {how.replace('_', ' ')}")
    split = ", ".join(f"{name} in {rows:,} rows" for name, rows in report["special_tokens_split"].items())
    lines.append(f"  looks like a special token and was split: {split or 'nothing'}")
    lines.append(
        "  length " + ", ".join(f"{name} {value:,}" for name, value in report["lengths"].items()) + f", longest {report['longest']:,}"
    )
    return "\n".join(lines)


def _bars(lengths: str) -> str:
    """The histogram of lengths, a line a bin."""
    bins = [tuple(map(int, line.split(","))) for line in lengths.splitlines()[1:]]
    most = max(rows for _, rows in bins)
    return "\n".join(f"  {tokens:>8,} {'█' * round(BAR * rows / most):<{BAR}} {rows:,}" for tokens, rows in bins)
