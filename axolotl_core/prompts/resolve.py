"""`type:` → Format, and what to say when a row does not fit it."""

from collections.abc import Iterable
from typing import Any

from axolotl_core import lookup
from axolotl_core.errors import DataError, ParamsError, nearest
from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import Example, Format

FORMATS = "axolotl_core.formats"


def format_of(data: Dataset) -> Format:
    """`alpaca` → formats/alpaca.py load(); `alpaca:chat` with a style; `sharegpt.load_role` its load_role(); a mapping.

    Raises ParamsError: no such format, function or style.
    """
    if not isinstance(data.type, str):
        return lookup.find(FORMATS, "user_defined", "format").load(data, None)
    base, _, style = data.type.partition(":")
    name, _, function = base.partition(".")
    module = lookup.find(FORMATS, name, "format")
    known = [f for f in vars(module) if f == "load" or f.startswith("load_")]
    if (function or "load") not in known:
        near = nearest(function, known)
        raise ParamsError(f"the format {name} has no '{function}'{near}; it has {', '.join(known)}")
    return getattr(module, function or "load")(data, style or None)


def read(format: Format, row: dict[str, Any]) -> Example:
    """The row as an Example. Raises DataError that says what the row has and which format would read it."""
    missing = [column for column in format.columns if column not in row]
    if missing:
        has = ", ".join(row) or "no field at all"
        raise DataError(f"format {format.name} wants the field '{missing[0]}', the row has {has}{_other(row)}")
    return format.read(row)


def _other(columns: Iterable[str]) -> str:
    have = set(columns)
    for name in lookup.names(FORMATS):
        wanted = lookup.find(FORMATS, name, "format").COLUMNS
        if wanted and have.issuperset(wanted):
            return f"; the format '{name}' would read it"
    return "; a prompt of your own can be written as a mapping under `type:`"
