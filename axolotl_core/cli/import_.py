"""axolotl import"""

from pathlib import Path

import click

from axolotl_core.artifacts.scratch import write_atomically
from axolotl_core.cli.project import PARAMS
from axolotl_core.cli.templates import keep, written
from axolotl_core.errors import ParamsError
from axolotl_core.params.document import Document, read
from axolotl_core.params.flat.migration import Migration
from axolotl_core.params.flat.translate import batch_of, countable, is_flat, place_of, replicas, translate
from axolotl_core.params.load import load
from axolotl_core.terminal import say, warn


@click.command("import")
@click.argument("old", type=click.Path(path_type=Path))
@click.option("--out", "-o", type=click.Path(path_type=Path), default=PARAMS, show_default=True, help="Where to write it.")
@click.option("--num-gpus", type=click.IntRange(1), help="How many GPUs the old file was run on; unset: those of this machine.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def command(old: Path, out: Path, num_gpus: int | None, force: bool) -> None:
    """Turn a flat Axolotl YAML, of 2023 or of today, into a params.yaml.

    Says of each option what became of it: kept, renamed, replaced, not needed and why, or left out and why. Comments stay with their
    options. The rows of a step, which Axolotl counts on each GPU, become batch_size, those of all together.

    \b
    axolotl import examples/llama-2/qlora.yml
    axolotl import examples/llama-3/fft-8b.yaml --num-gpus 8
    """
    document = read(old)
    if not is_flat(document.values):
        raise ParamsError(f"{old}: is sectioned already; use it with --params, or copy it to {PARAMS}")
    if not out.absolute().parent.is_dir():
        raise ParamsError(f"{out}: the folder {out.parent} does not exist")
    if out.exists() and not force:
        raise ParamsError(f"{out}: is there already; --force replaces it, --out writes elsewhere")
    processes = num_gpus or _gpus()
    made = translate(document, processes)
    new = written(made.document)
    if out.exists() and out.read_text(encoding="utf-8", errors="replace") != new:
        keep(out)
    write_atomically(out, new.encode())
    for migration in made.migrations:
        if migration.status != "left out":
            say(f"  {migration.option:<32} {migration.status:<11} {migration.message}")
    _tell_left_out(document, [migration for migration in made.migrations if migration.status == "left out"])
    _tell_batch(document, processes, num_gpus)
    say(f"wrote {out}")
    try:
        load(out)
    except ParamsError as error:
        warn(f"before it runs:\n{error}")


def _tell_batch(document: Document, processes: int, num_gpus: int | None) -> None:
    if not countable(document.values):
        return
    rows, each = batch_of(document.values)
    copies = replicas(document.values, processes)
    shared = f" ({processes} GPUs, those of a tensor or context parallel group share their rows)" if copies != processes else ""
    given = "as --num-gpus says" if num_gpus else "as this machine has; --num-gpus says another number"
    say(f"batch_size {rows * copies} = {each} × {copies} GPU{'s' * (copies > 1)}{shared}, {given}")


def _tell_left_out(document: Document, migrations: list[Migration]) -> None:
    if migrations:
        say("left out:")
    for migration in migrations:
        same = "" if migration.stops else " (the result is the same)"
        say(f"  {document.place(place_of(migration))}: {migration.option}: {migration.message}{same}")


def _gpus() -> int:
    """Of this machine, one where there is none."""
    import torch

    return max(1, torch.cuda.device_count())
