"""`type:` → Format, and what to say when a row does not fit it."""

import dataclasses
import importlib.util
import os
import traceback
from collections.abc import Iterable
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from axolotl_core import lookup
from axolotl_core.artifacts.key import digest
from axolotl_core.errors import DataError, ParamsError, nearest
from axolotl_core.params.datasets import Dataset
from axolotl_core.prompts.example import ROLES, Example, Format, Ids, Segment, Vocabulary
from axolotl_core.prompts.templates import jinja_file

FORMATS = "axolotl_core.formats"
MOST_FRAMES = 6
THEIR_MISTAKES = (Exception, SystemExit)
"""What a format of the user's own may raise: anything."""


def format_of(data: Dataset, root: Path = Path()) -> Format:
    """`alpaca` → formats/alpaca.py load(); `alpaca:chat` with a style; `sharegpt.load_role` its load_role(); a mapping.

    `my_module.load_fn` is a function of my_module.py in `root`, the folder of params.yaml, where Jinja files lie too.
    Raises ParamsError: no such format, function or style.
    """
    if jinja := jinja_file(data, root):
        data = data.model_copy(update={"chat_template": None, "chat_template_jinja": str(jinja.absolute())})
    if not isinstance(data.type, str):
        format = lookup.find(FORMATS, "user_defined", "format").load(data, None)
    else:
        base, _, style = data.type.partition(":")
        name, _, function = base.partition(".")
        own = module_file(data, root)
        module = _imported(own) if own else lookup.find(FORMATS, OLD_NAMES.get(name, name), "format")
        known = [f for f in vars(module) if f == "load" or f.startswith("load_")]
        if (function or "load") not in known:
            near = nearest(function, known)
            raise ParamsError(f"the format {name} has no '{function or 'load'}'{near}; it has {', '.join(known) or 'none'}")
        load = getattr(module, function or "load")
        format = _theirs(load, own, data, style or None) if own else load(data, style or None)
    return dataclasses.replace(format, markup=format.markup if data.allow_special_tokens is None else data.allow_special_tokens)


OLD_NAMES = {"sharegpt_simple": "sharegpt"}


def module_file(data: Dataset, root: Path) -> Path | None:
    """my_module.py of `type: my_module.load_fn`, where it lies in `root` and no format of ours has the name.

    Only of a type that names the function: a misspelt format does not run what happens to lie there.
    """
    if not isinstance(data.type, str):
        return None
    name, dot, _ = data.type.partition(":")[0].partition(".")
    file = root / f"{name}.py"
    return file if dot and name.isidentifier() and file.is_file() and name not in lookup.names(FORMATS) else None


def files_read(data: Dataset, root: Path) -> list[Path]:
    """Files beside params.yaml that decide what becomes of a row: a module of the user's, a Jinja file."""
    return [file for file in (module_file(data, root), jinja_file(data, root)) if file]


def copied_as(file: Path, root: Path) -> str:
    """Where a copy of one of `files_read` lies in a folder that stands for `root`; what is outside of it gets a name of its own."""
    path = os.path.relpath(file, root)
    return path if not path.startswith("..") else f"outside/{digest(os.fsencode(path))[:8]}/{file.name}"


def relocated(data: Dataset, root: Path, copies: Path) -> Dataset:
    """The dataset, whose files lie in `copies` in the place of `root`."""
    if jinja := jinja_file(data, root):
        return data.model_copy(update={"chat_template": None, "chat_template_jinja": str(copies.absolute() / copied_as(jinja, root))})
    return data


def read(format: Format, row: dict[str, Any]) -> Example | Ids:
    """The row as an Example. Raises DataError that says what the row has and which format would read it."""
    missing = [column for column in format.columns if column not in row]
    if missing:
        has = ", ".join(row) or "no field at all"
        raise DataError(f"format {format.name} wants the field '{missing[0]}', the row has {has}{_other(row)}")
    return format.read(row)


def _other(columns: Iterable[str]) -> str:
    return _that_reads(frozenset(columns))


@cache
def _columns() -> dict[str, tuple[str, ...]]:
    """Format → the columns that it wants."""
    return {name: lookup.find(FORMATS, name, "format").COLUMNS for name in lookup.names(FORMATS)}


@lru_cache(1000)
def _that_reads(have: frozenset[str]) -> str:
    """Rows that do not fit come in thousands and are alike."""
    fit = [f"'{name}'" for name, names in _columns().items() if names and have.issuperset(names)]
    fit += ["'chat_template'"] if have & {"messages", "conversations"} else []
    if fit:
        return f"; the format {' or '.join(fit)} would read it"
    return "; a prompt of your own can be written as a mapping under `type:`"


def _imported(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"axolotl_formats_{file.stem}", file)
    assert spec is not None, file
    assert spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except THEIR_MISTAKES as error:
        raise ParamsError(_told(error, file, "cannot be imported: ")) from None
    return module


def _theirs(load: Any, file: Path, data: Dataset, style: str | None) -> Format:
    """The Format that a function of the user's gives; what it raises is told with its line."""
    try:
        format = load(data, style)
    except (DataError, ParamsError):
        raise
    except THEIR_MISTAKES as error:
        raise ParamsError(_told(error, file)) from None
    if not isinstance(format, Format):
        raise ParamsError(f"{file.name}: {load.__name__} returns {type(format).__name__}, wanted a Format of axolotl_core.prompts.example")
    return _guarded(format, file, load.__name__)


def _guarded(format: Format, file: Path, function: str) -> Format:
    def read(row: dict[str, Any]) -> Example | Ids:
        try:
            made = format.read(row)
        except DataError:
            raise
        except THEIR_MISTAKES as error:
            raise DataError(_told(error, file)) from None
        if wrong := _wrong(made):
            raise DataError(f"{file.name}: {function} {wrong}")
        return made

    def fit(vocabulary: Vocabulary) -> Format:
        assert format.fit is not None
        try:
            return _guarded(format.fit(vocabulary), file, function)
        except THEIR_MISTAKES as error:
            raise ParamsError(_told(error, file)) from None

    return dataclasses.replace(format, read=read, fit=fit if format.fit else None)


def _wrong(made: Any) -> str | None:
    """What is wrong with what a format of the user's made of a row."""
    if isinstance(made, Ids):
        return None
    if not isinstance(made, Example):
        return f"made {type(made).__name__} of a row, wanted an Example"
    for i, segment in enumerate(made.segments):
        if not isinstance(segment, Segment) or not isinstance(segment.text, str):
            return f"made a segment of {type(getattr(segment, 'text', segment)).__name__}, wanted text"
        if segment.role not in ROLES:
            return f"gave a segment the role '{segment.role}'{nearest(segment.role, ROLES)}; there are {', '.join(ROLES)}"
        if i == 0 and segment.glue:
            return "glued the first segment, and there is none before it"
    return None


def _told(error: BaseException, file: Path, what: str = "") -> str:
    """An exception of a file of the user's: where it came from, and the lines of that file that led there.

    quiz.py:5: ZeroDivisionError: division by zero (called from line 12 in read)
    """
    if isinstance(error, SyntaxError):
        return f"{file.name}:{error.lineno or 0}: {what}{type(error).__name__}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    callers = [f"line {frame.lineno} in {frame.name}" for frame in reversed(frames[-MOST_FRAMES:-1])]
    called = f" (called from {', '.join(callers)})" if callers else ""
    return f"{file.name}:{frames[-1].lineno if frames else 0}: {what}{type(error).__name__}: {error}{called}"
