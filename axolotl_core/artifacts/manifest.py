"""manifest.json: what an artifact holds. Content facts only, written last: its presence means the artifact is complete.

{"format": "tokens", "version": 1, "files": [{"file": "part-00000.arrow", "bytes": 520, "xxh3": "…"}], "rows": 3}

The artifact is the files that are listed. Others may lie beside them, and nobody reads them: readers are given a `view`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from axolotl_core.artifacts.key import canonical, digest, digest_file
from axolotl_core.artifacts.scratch import write_atomically
from axolotl_core.errors import ArtifactError

FILE = "manifest.json"
VERSION = 1


def seal(folder: Path, format: str, facts: Mapping[str, Any]) -> str:
    """Hash every file below `folder`, write the manifest, and return the artifact's digest (that of the manifest)."""
    files = [
        {"file": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "xxh3": digest_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    manifest = {"format": format, "version": VERSION, "files": files, **facts}
    data = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    write_atomically(folder / FILE, data)
    return digest_of(manifest)


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a complete artifact. Raises ArtifactError: missing, unreadable, of another version, no manifest by its shape."""
    try:
        manifest = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        state = "is incomplete (it has no manifest.json)" if folder.is_dir() else "is missing"
        raise ArtifactError(f"{folder}: {state}; run the stage that makes it") from None
    except (OSError, ValueError, RecursionError):
        raise _damaged(folder) from None
    if not isinstance(manifest, dict) or type(manifest.get("version")) is not int:
        raise _damaged(folder)
    if manifest["version"] != VERSION:
        raise ArtifactError(f"{folder}: got an artifact of version {manifest['version']}, wanted {VERSION}; run its stage again")
    if (
        not isinstance(manifest.get("format"), str)
        or not isinstance(manifest.get("files"), list)
        or not all(map(_is_entry, manifest["files"]))
    ):
        raise _damaged(folder)
    return manifest


def _is_entry(entry: Any) -> bool:
    """A file below the artifact, whose name leads nowhere else."""
    if not isinstance(entry, dict) or entry.keys() != {"file", "bytes", "xxh3"}:
        return False
    name, size, found = entry["file"], entry["bytes"], entry["xxh3"]
    if not isinstance(name, str) or type(size) is not int or not isinstance(found, str):
        return False
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _damaged(folder: Path) -> ArtifactError:
    return ArtifactError(f"{folder / FILE}: damaged, it is not a manifest; delete {folder} and run its stage again")


def artifact_digest(folder: Path) -> str:
    """The digest that stands for the artifact in keys; reads the manifest only."""
    return digest_of(read(folder))


def digest_of(manifest: Mapping[str, Any]) -> str:
    """Digest of an artifact whose manifest was read already."""
    return digest(canonical(manifest))


def verify(folder: Path, digest_of_file: Callable[[Path], str] = digest_file) -> dict[str, Any]:
    """Hold every file against the manifest: sizes and digests. digest_of_file: may remember those of files that have not changed.

    DVC hands over a damaged object of its cache without a word, so this is done before each read.
    Raises ArtifactError that names the file.
    """
    manifest = read(folder)
    for entry in manifest["files"]:
        path = folder / entry["file"]
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            raise ArtifactError(f"{path}: damaged artifact, the file is gone; delete {folder} and run its stage again")
        if size != entry["bytes"]:
            raise ArtifactError(
                f"{path}: damaged artifact, got {size} bytes, wanted {entry['bytes']}; delete {folder} and run its stage again"
            )
        if (got := digest_of_file(path)) != entry["xxh3"]:
            raise ArtifactError(
                f"{path}: damaged artifact, got digest {got[:12]}…, wanted {entry['xxh3'][:12]}…; delete {folder} and run its stage again"
            )
    return manifest


def names(folder: Path) -> list[str]:
    """Names of the files that the manifest of an artifact lists, and the manifest's."""
    return [FILE, *(entry["file"] for entry in read(folder)["files"])]


def view(folder: Path, into: Path) -> None:
    """Make the new folder `into`: links to the files that the manifest of an artifact lists, and to the manifest."""
    for name in names(folder):
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        (into / name).symlink_to((folder / name).absolute())


@contextmanager
def opened(artifacts: Path, paths: Iterable[str], digest_of_file: Callable[[Path], str]) -> Iterator[Path]:
    """A folder with verified views of artifacts, under their own paths, for a command that reads them.

    Raises ArtifactError that names what is missing or damaged.
    """
    with TemporaryDirectory(prefix="axolotl-") as folder:
        for path in paths:
            verify(artifacts / path, digest_of_file)
            view(artifacts / path, Path(folder) / path)
        yield Path(folder)
