"""Which files a local data set consists of."""

from pathlib import Path

from axolotl_core.errors import DataError, ParamsError
from axolotl_core.params.datasets import Dataset
from axolotl_core.sources.place import SUFFIXES, Place, only_hub


def fits(place: Place, name: str, data: Dataset) -> None:
    """Raises ParamsError for options of data set `name` that do nothing where its rows lie."""
    only_hub(
        place,
        f"datasets.{name}",
        {"name": data.name, "revision": data.revision, "train_on_split": data.train_on_split, "streaming": data.streaming},
    )
    if place.kind == "file" and data.data_files:
        raise ParamsError(f"datasets.{name}.data_files is set, but {place.text} is one file; remove it, or give the folder as path")
    if place.kind == "hub" and data.ds_type:
        raise ParamsError(f"datasets.{name}.ds_type is set, but {place.text} is a data set of the hub, which knows its own; remove it")


def files_of(place: Place, data: Dataset) -> list[Path]:
    """The file itself, or the data files below the folder in order of their names (`data_files`: globs).

    Raises DataError: a folder without a data file, a glob that matches none.
    """
    if place.kind == "file":
        return [place.local]
    globs = [data.data_files] if isinstance(data.data_files, str) else data.data_files
    if globs is None:
        found = [p for p in place.local.rglob("*") if p.is_file() and (data.ds_type or p.suffix.lower() in SUFFIXES)]
        found = [p for p in found if not any(part.startswith(".") for part in p.relative_to(place.local).parts)]
        if not found:
            raise DataError(f"{place.text}: the folder holds no {', '.join(sorted(SUFFIXES))} file")
        return sorted(found)
    found = []
    for pattern in globs:
        if not pattern or pattern.startswith("/"):
            raise DataError(f"{place.text}: data_files '{pattern}' is no glob relative to the folder")
        matched = sorted(p for p in place.local.glob(pattern) if p.is_file())
        if not matched:
            raise DataError(f"{place.text}: data_files '{pattern}' matches no file in the folder")
        found += [p for p in matched if p not in found]
    return found
