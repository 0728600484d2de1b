"""Which files a local dataset consists of, and which of a folder are left out.

one file       itself
data_files     what they name, below the folder; `path: json` with data_files is the datasets library's spelling
save_to_disk   the files that state.json names
a folder       its data files of one split: several of them and no choice is an error
"""

import glob
import json
import re
from dataclasses import dataclass
from pathlib import Path

from axolotl_core.errors import DataError, ParamsError, nearest
from axolotl_core.params.datasets import Dataset
from axolotl_core.params.paths import path_in
from axolotl_core.sources.place import SUFFIXES, Place, kind_of, only_hub, resolve
from axolotl_core.sources.splits import canonical, sliced, split_of

BUILDERS = ("json", "csv", "parquet", "arrow", "text")
"""Names that the datasets library gives to readers, in the place of a repository."""
ABOUT = re.compile(r"(readme|licen[cs]e|notice|changelog|citation|copying|contributing|authors)\b.*", re.IGNORECASE)
"""Texts about the data, which are no data."""
METADATA = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
"""What the datasets library writes beside rows."""
MOST_NAMES = 5


@dataclass(frozen=True)
class Files:
    """The files to read, in order, and the names of those of the folder that are not."""

    paths: list[Path]
    left_out: tuple[str, ...] = ()

    def summary(self) -> str:
        """` (left out: README.md, test.jsonl)`, or nothing."""
        if not self.left_out:
            return ""
        more = f" and {len(self.left_out) - MOST_NAMES:,} more" if len(self.left_out) > MOST_NAMES else ""
        return f" (left out: {', '.join(self.left_out[:MOST_NAMES])}{more})"


def place_of(data: Dataset, root: Path) -> Place:
    """Where the rows of a dataset lie. Raises DataError when nothing is there."""
    if reader(data) and not (root / data.path).exists():
        return Place(data.path, "folder", root)
    return resolve(data.path, root)


def reader(data: Dataset) -> str | None:
    """The reader that `path` names instead of a place, for local `data_files`."""
    names = [data.data_files] if isinstance(data.data_files, str) else data.data_files or []
    return data.path if data.path in BUILDERS and names and not any("://" in name for name in names) else None


def fits(place: Place, name: str, data: Dataset) -> None:
    """Raises ParamsError for options of dataset `name` that do nothing where its rows lie."""
    only_hub(place, f"datasets.{name}", {"name": data.name, "revision": data.revision, "streaming": data.streaming})
    if place.kind == "file" and data.data_files:
        raise ParamsError(f"datasets.{name}.data_files is set, but {place.text} is one file; remove it, or give the folder as path")
    if place.kind == "hub" and data.ds_type:
        raise ParamsError(f"datasets.{name}.ds_type is set, but {place.text} is a dataset of the hub, which knows its own; remove it")
    one_split = place.kind == "file" or (place.kind == "folder" and data.data_files)
    split, _ = sliced(data.train_on_split)
    if one_split and split and canonical(split) not in ("train", split_of(Path(place.text).name)):
        what = "data_files are" if data.data_files else f"{place.text} is"
        raise ParamsError(f"datasets.{name}.train_on_split is '{data.train_on_split}', but {what} one split by themselves; remove it")


def files_of(place: Place, data: Dataset) -> Files:
    """The files of a dataset on this machine.

    Raises DataError: a folder without a data file, a glob that matches none, several splits and none chosen, no such split.
    """
    if place.kind == "file":
        return Files([place.local])
    globs = [data.data_files] if isinstance(data.data_files, str) else data.data_files
    if globs is not None:
        found = [path for pattern in globs for path in _named(place, pattern, anywhere=reader(data) is not None)]
        return Files(list(dict.fromkeys(found)))
    if (place.local / "dataset_dict.json").is_file():
        return _saved_splits(place, data)
    if (place.local / "state.json").is_file() and "_data_files" in (state := _json(place.local / "state.json")):
        return _saved(place, place.local, state)
    return _of_folder(place, data)


def _named(place: Place, pattern: str, *, anywhere: bool) -> list[Path]:
    """What one of data_files names: a file whose name it is, else what it matches as a glob."""
    if not pattern or (pattern.startswith("/") and not anywhere):
        raise DataError(f"{place.text}: data_files '{pattern}' is not a glob relative to the folder")
    literal = path_in(place.local, pattern)
    if literal.is_file():
        return [literal]
    matched = sorted(Path(name) for name in glob.glob(str(literal), recursive=True) if Path(name).is_file())
    if not matched:
        raise DataError(f"{place.text}: data_files '{pattern}' matches no file in {'the folder' if not anywhere else place.local}")
    return matched


def _of_folder(place: Place, data: Dataset) -> Files:
    names = {p.relative_to(place.local).as_posix(): p for p in place.local.rglob("*") if p.is_file()}
    every = sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))
    chosen = [name for name in every if _is_data(names[name], data.ds_type)]
    if not chosen and data.ds_type:  # files whose suffix says nothing
        chosen = [name for name in every if kind_of(names[name]) is None and not ABOUT.fullmatch(names[name].name)]
    if not chosen:
        wanted = data.ds_type or ", ".join(sorted(SUFFIXES))
        raise DataError(f"{place.text}: the folder holds no {wanted} file{Files([], tuple(every)).summary()}")
    kept = _of_split(place, chosen, sliced(data.train_on_split)[0])
    return Files([names[name] for name in kept], tuple(name for name in every if name not in set(kept)))


def _is_data(path: Path, ds_type: str | None) -> bool:
    kind = kind_of(path)
    if kind is None or path.name in METADATA or (kind == "text" and ABOUT.fullmatch(path.name)):
        return False
    return ds_type in (None, kind) or {ds_type, kind} == {"json", "jsonl"}


def _of_split(place: Place, names: list[str], wanted: str | None) -> list[str]:
    """The files of the split that is wanted; those whose names say none are what a folder trains on."""
    splits: dict[str | None, list[str]] = {}
    for name in names:
        splits.setdefault(split_of(name), []).append(name)
    if wanted is not None:
        found = splits.get(canonical(wanted)) or (splits.get(None) if canonical(wanted) == "train" else None)
        if not found:
            raise DataError(f"{place.text}: {_no_split(wanted, [split for split in splits if split])}")
        return found
    if len(splits) > 1:
        message = ", ".join(f"{split or 'none by its name'} ({files[0]}{', …' if files[1:] else ''})" for split, files in splits.items())
        raise DataError(
            f"{place.text}: the folder holds several splits: {message}; choose one with train_on_split, or name files in data_files"
        )
    return names


def _saved_splits(place: Place, data: Dataset) -> Files:
    """A folder that DatasetDict.save_to_disk has written: a folder a split."""
    splits = [str(split) for split in _json(place.local / "dataset_dict.json").get("splits", [])]
    split, _ = sliced(data.train_on_split)
    if split is None and len(splits) > 1:
        raise DataError(f"{place.text}: save_to_disk has written the splits {', '.join(splits)}; choose one with train_on_split")
    wanted = split or next(iter(splits), "train")
    if wanted not in splits:
        raise DataError(f"{place.text}: {_no_split(wanted, splits)}")
    folder = place.local / wanted
    others = tuple(f"{split}/" for split in splits if split != wanted)
    return Files(_saved(place, folder, _json(folder / "state.json")).paths, others)


def _saved(place: Place, folder: Path, state: dict) -> Files:
    """A folder that Dataset.save_to_disk has written: its state.json names the files with rows."""
    paths = [folder / str(entry["filename"]) for entry in state.get("_data_files", []) if isinstance(entry, dict) and "filename" in entry]
    if not paths:
        raise DataError(f"{place.text}: its state.json names no file with rows; save it anew with save_to_disk")
    if missing := [path.name for path in paths if not path.is_file() or path.parent != folder]:
        raise DataError(f"{place.text}: its state.json names {missing[0]}, which is not there; save it anew with save_to_disk")
    return Files(paths, tuple(sorted(path.name for path in folder.glob("*.arrow") if path not in paths)))


def _no_split(wanted: str, splits: list[str]) -> str:
    has = f"it has {', '.join(splits)}{nearest(wanted, splits)}" if splits else "the names of its files say none"
    return f"has no split '{wanted}'; {has}; set train_on_split"


def _json(file: Path) -> dict:
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read: {' '.join(str(error).split())}") from None
    return found if isinstance(found, dict) else {}
