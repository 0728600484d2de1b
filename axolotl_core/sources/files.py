"""Which files a local data set consists of."""

from pathlib import Path

from axolotl_core.errors import DataError
from axolotl_core.params.datasets import Dataset
from axolotl_core.sources.place import SUFFIXES, Place


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
        matched = sorted(p for p in place.local.glob(pattern) if p.is_file())
        if not matched:
            raise DataError(f"{place.text}: data_files '{pattern}' matches no file in the folder")
        found += [p for p in matched if p not in found]
    return found
