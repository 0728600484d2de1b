"""Folder-tables: in formats/, attention/ and models/families/ the file's name is the option's value."""

import importlib
from pathlib import Path
from types import ModuleType

from axolotl_core.errors import ParamsError, nearest


def names(package: str) -> list[str]:
    """The files of a folder-table, sorted: `names("axolotl_core.formats")` → ["alpaca", "completion", …]."""
    folder = Path(str(importlib.import_module(package).__file__)).parent
    return sorted(file.stem for file in folder.glob("*.py") if file.stem != "__init__")


def find(package: str, name: str, what: str) -> ModuleType:
    """Import the one module asked for; whatever it raises comes through.

    Raises ParamsError with the nearest name when there is no such file. what: "format", "attention", for the message.
    """
    known = names(package)
    if name not in known:
        raise ParamsError(f"no {what} is called '{name}'{nearest(name, known)}; there are {', '.join(known)}")
    return importlib.import_module(f"{package}.{name}")
