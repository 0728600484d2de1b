"""Identity: xxh3-128 of canonical JSON and of files.

A stage's key is made of the *content* of its inputs, not of their keys: an edit upstream that leaves the bytes
alone stops there, and DVC, which also goes by content, agrees.
"""

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import xxhash

from axolotl_core.progress import progress

CHUNK_BYTES = 1 << 22
SLOW_BYTES = 1 << 30
"""From this size on it is worth saying how far reading is."""


def canonical(value: Any) -> bytes:
    """JSON with sorted keys, no spaces, UTF-8; the same value gives the same bytes on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(value: bytes) -> str:
    """xxh3-128 as 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(value)


def digest_file(path: Path) -> str:
    """xxh3-128 of a file's bytes, read in 4 MiB pieces."""
    with path.open("rb") as file:
        return digest_open(file, path.name)


def digest_open(file: IO[bytes], name: str) -> str:
    """xxh3-128 of what is left to read of an open file."""
    state = xxhash.xxh3_128()
    chunks = iter(partial(file.read, CHUNK_BYTES), b"")
    size = os.fstat(file.fileno()).st_size
    for chunk in chunks if size < SLOW_BYTES else progress(chunks, size >> 20, f"reading {name}", "MiB", lambda c: len(c) >> 20):
        state.update(chunk)
    return state.hexdigest()


def stage_key(stage: str, revision: int, sections: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Key of one run of a stage: its name and revision, its resolved sections, and the digest of each input."""
    identity = {"stage": stage, "revision": revision, "sections": dict(sections), "inputs": dict(inputs)}
    return digest(canonical(identity))
