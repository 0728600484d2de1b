"""A sample for people to look at: which text is trained, which is not, which tokens are special.

[<|im_start|>, user⏎Hi, <|im_end|>, ⏎, …, ⟦Hello!, <|im_end|>⟧]
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from axolotl_core.artifacts import manifest
from axolotl_core.artifacts.table import batches
from axolotl_core.errors import DataError
from axolotl_core.labels import IGNORE_INDEX
from axolotl_core.sources.exact import loads
from axolotl_core.sources.raw import REJECTED, read_raw
from axolotl_core.tokens.samples import Samples
from axolotl_core.tokens.tokenizer import Tokenizer

NEWLINE = "⏎"


@dataclass(frozen=True)
class Run:
    """Tokens in a row that are alike: all trained or none, all special or none."""

    text: str
    trained: bool
    special: bool


@dataclass(frozen=True)
class Shown:
    """A row as it is shown. place: `data/faq.jsonl:3`; tokens and trained are counts."""

    place: str
    runs: list[Run]
    tokens: int
    trained: int


def show(raw: Path, tokens: Path, tokenizer: Tokenizer, row: int) -> Shown:
    """Row number `row` of a dataset, from 1. Raises DataError where there is none, or where it was dropped."""
    place = place_of(raw, row)
    samples = Samples(tokens)
    rows = np.concatenate([batch.column("row").to_numpy() for batch in batches(tokens)])
    at = int(np.searchsorted(rows, row - 1))
    if at == len(rows) or rows[at] != row - 1:
        raise DataError(f"{place}: row {row} was dropped: {_reason(tokens, place)}")
    ids, labels = samples.sample(at)
    return Shown(place, runs_of(ids.tolist(), labels.tolist(), tokenizer), len(ids), int((labels != IGNORE_INDEX).sum()))


def runs_of(ids: Sequence[int], labels: Sequence[int], tokenizer: Tokenizer) -> list[Run]:
    """Consecutive tokens that are alike, decoded together: a character may take several tokens."""
    special = tokenizer.ends
    kinds = [(label != IGNORE_INDEX, id in special) for id, label in zip(ids, labels, strict=True)]
    runs = []
    for (trained, is_special), group in groupby(zip(kinds, ids, strict=True), key=lambda pair: pair[0]):
        runs.append(Run(tokenizer.decode([id for _, id in group]), trained, is_special))
    return runs


def place_of(raw: Path, row: int) -> str:
    """Where row number `row`, from 1, stands in the user's files. Raises DataError where there is no such row."""
    facts, first = manifest.read(raw), 1
    if 1 <= row <= facts["rows"]:
        for batch in batches(raw):
            if row < first + batch.num_rows:
                return read_raw(batch, facts["sources"]).place(row - first)
            first += batch.num_rows
    raise DataError(f"there is no row {row}; the dataset has rows 1 to {facts['rows']:,}")


def marked(runs: Sequence[Run]) -> str:
    """Plain text, trained parts in ⟦ ⟧: for a terminal without colours."""
    groups = groupby(runs, key=lambda run: run.trained)
    return "".join(f"⟦{text}⟧" if trained else text for trained, text in ((t, "".join(r.text for r in g)) for t, g in groups))


def page(title: str, shown: Shown) -> str:
    """The row as an HTML page that needs nothing else."""
    spans = []
    for run in shown.runs:
        kinds = " ".join(kind for kind, on in (("trained", run.trained), ("special", run.special)) if on) or "plain"
        spans.append(f'<span class="{kinds}">{html.escape(run.text).replace(chr(10), NEWLINE + chr(10))}</span>')
    head = f"{shown.place}, {shown.tokens:,} tokens, {shown.trained:,} trained ({shown.trained / max(1, shown.tokens):.0%})"
    return PAGE.format(title=html.escape(title), head=html.escape(head), text="".join(spans))


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; color: #222; background: #fff }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; font: 15px/1.6 ui-monospace, monospace; border: 1px solid #ddd; padding: 1rem }}
.plain {{ color: #666 }}
.trained {{ background: #d8f3dc; color: #08350f }}
.special {{ border: 1px solid #999; border-radius: 3px; padding: 0 2px; color: #5a189a }}
</style>
<h1>{title}</h1>
<p>{head}. <span class="trained">Trained</span>, <span class="plain">not trained</span>, <span class="special">special token</span>.</p>
<pre>{text}</pre>
</html>
"""


def _reason(tokens: Path, place: str) -> str:
    file = tokens / REJECTED
    for line in file.read_bytes().splitlines() if file.is_file() else ():
        rejected = loads(line)
        if f"{rejected['file']}:{rejected['line']}" == place:
            return str(rejected["reason"])
    return "no target token"
