"""manifest.json: what an artifact holds. Content facts only, written last: its presence means the artifact is whole.

{"format": "tokens", "version": 1, "files": [{"file": "part-00000.arrow", "bytes": 520, "xxh3": "…"}], "rows": 3}
"""

import json
from collections.abc import Mapping
from pathlib import Path
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
    """The manifest of a whole artifact. Raises ArtifactError: missing, unreadable, of another version."""
    try:
        manifest = json.loads((folder / FILE).read_text(encoding="utf-8"))
        version = manifest["version"]
    except FileNotFoundError:
        state = "is not whole (it has no manifest.json)" if folder.is_dir() else "is missing"
        raise ArtifactError(f"{folder}: {state}; run the stage that makes it") from None
    except (ValueError, KeyError, TypeError):
        raise ArtifactError(f"{folder / FILE}: damaged, it is not a manifest; delete {folder} and run its stage again") from None
    if version != VERSION:
        raise ArtifactError(f"{folder}: got an artifact of version {version}, wanted {VERSION}; run its stage again")
    return dict(manifest)


def artifact_digest(folder: Path) -> str:
    """The digest that stands for the artifact in keys; reads the manifest only."""
    return digest_of(read(folder))


def digest_of(manifest: Mapping[str, Any]) -> str:
    """Digest of an artifact whose manifest was read already."""
    return digest(canonical(manifest))


def verify(folder: Path, deep: bool = True) -> dict[str, Any]:
    """Hold every file against the manifest: sizes, and with `deep` the digests.

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
        if deep and (got := digest_file(path)) != entry["xxh3"]:
            raise ArtifactError(
                f"{path}: damaged artifact, got digest {got[:12]}…, wanted {entry['xxh3'][:12]}…; delete {folder} and run its stage again"
            )
    return manifest
