"""axolotl import"""

from pathlib import Path

import click

from axolotl_core.cli.project import PARAMS
from axolotl_core.cli.templates import written
from axolotl_core.errors import ParamsError, nearest
from axolotl_core.params.document import read
from axolotl_core.params.legacy import GONE, RENAMED, fate_of, is_flat, sectioned
from axolotl_core.params.load import load
from axolotl_core.params.whole import section_of


@click.command("import")
@click.argument("old", type=click.Path(path_type=Path))
@click.option("--out", "-o", type=click.Path(path_type=Path), default=PARAMS, show_default=True, help="Where to write it.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def command(old: Path, out: Path, force: bool) -> None:
    """Turn a flat Axolotl YAML into a params.yaml.

    Says of each option what became of it: kept, renamed, or gone and why.

    \b
    axolotl import examples/llama-2/qlora.yml
    """
    document = read(old)
    if not is_flat(document.values):
        raise ParamsError(f"{old}: is sectioned already; use it with --params, or copy it to {PARAMS}")
    fates = [fate_of(option) for option in document.values]
    unknown = [fate.option for fate in fates if fate.fate == "unknown"]
    if unknown:
        known = [*section_of(), *GONE, *RENAMED]
        raise ParamsError("\n".join(f"{document.place((o,))}: '{o}' is no option of Axolotl{nearest(o, known)}" for o in unknown))
    if not out.absolute().parent.is_dir():
        raise ParamsError(f"{out}: the folder {out.parent} does not exist")
    if out.exists() and not force:
        raise ParamsError(f"{out}: is there already; --force replaces it, --out writes elsewhere")
    out.write_text(written(sectioned(document).values), encoding="utf-8")
    for fate in fates:
        if document.values[fate.option] is None:
            click.echo(f"  {fate.option:<28} kept     empty, so it has its default")
        elif fate.fate == "gone":
            click.echo(f"  {fate.option:<28} gone     {fate.told}")
        else:
            name = fate.told if fate.told == "datasets" else f"{section_of()[fate.told]}.{fate.told}"
            click.echo(f"  {fate.option:<28} {fate.fate:<8} {name}")
    click.echo(f"wrote {out}")
    try:
        load(out)
    except ParamsError as error:
        click.echo(f"before it runs:\n{error}", err=True)
