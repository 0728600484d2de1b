"""keys/<artifact>.json: how an artifact was made. Provenance, and no part of any key.

{"stage": "pack", "revision": 2, "key": "…", "params": {…}, "inputs": {…}, "output": digest of the artifact,
 "also": {"metrics/train.json": digest}, "versions": {…}, "lineage": {…}, "digest": of all this}
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from axolotl_core.artifacts.key import canonical, digest
from axolotl_core.artifacts.scratch import write_atomically
from axolotl_core.errors import ArtifactError

OF_THE_RUN = ("also", "work")
"""What differs from run to run: speed and memory are in the metrics."""
SHAPE = {"stage": str, "revision": int, "key": str, "params": dict, "inputs": dict, "output": str, "also": dict, "lineage": dict}


def write(file: Path, record: Mapping[str, Any]) -> None:
    """Raises MachineError where the disk is full or cannot be written."""
    whole = {**record, "digest": digest(canonical(record))}
    write_atomically(file, json.dumps(whole, indent=1, sort_keys=True).encode() + b"\n")


def read(file: Path) -> dict[str, Any]:
    """A record as it was written. Raises ArtifactError: missing, damaged."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        own = record.pop("digest")
        if own == digest(canonical(record)) and all(isinstance(record[name], kind) for name, kind in SHAPE.items()):
            return dict(record)
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"{file}: is missing; `dvc pull {file}` or run its stage") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise ArtifactError(f"{file}: damaged, it is not what its stage wrote; `dvc pull {file}` or run its stage again")


def lineage(path: str, made: Mapping[str, Any]) -> dict[str, Any]:
    """The records of an artifact and of all that it was made of, by path: what descendants carry along."""
    own = {name: value for name, value in made.items() if name not in ("lineage", *OF_THE_RUN)}
    return {**made["lineage"], path: own}
