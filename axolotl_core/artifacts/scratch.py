"""Writing so that nothing is lost: build aside, flush to the disk, rename.

with building(final, scratch) as folder:    # .axolotl/tmp/<name>.<pid>
    …write files…                            # an error or a kill here leaves `final` as it was
    replace(folder / "artifact", final)      # now `final` is the new folder, whole
"""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from axolotl_core.errors import MachineError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def building(final: Path, scratch: Path, *, swept: bool = True) -> Iterator[Path]:
    """An empty folder of this process to build `final` in; it is gone when the block ends.

    swept: first remove what dead processes left. Raises MachineError when the disk is full; the previous `final` then stays.
    """
    if swept:
        sweep(scratch)
    folder = scratch / f"{final.name}.{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(parents=True)
        yield folder
    except (OSError, SafetensorError, RuntimeError) as error:
        if _is_full(error):
            raise MachineError(
                f"{final}: the disk is full ({error}); the previous artifact was left as it was; free some space and run again"
            ) from None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_full(error: Exception) -> bool:
    """safetensors and torch report a full disk in words of their own."""
    if isinstance(error, OSError):
        return error.errno in FULL
    return any(f"os error {number}" in str(error) for number in FULL) or "inline_container" in str(error)


def replace(new: Path, final: Path) -> None:
    """Put the folder or file `new` where `final` is; the old one goes only when the new one stands."""
    flush(new)
    final.parent.mkdir(parents=True, exist_ok=True)
    if not final.is_dir():
        new.rename(final)
    else:
        old = new.with_name(new.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
        new.rename(final)
        shutil.rmtree(old, ignore_errors=True)
    flush(final.parent, deep=False)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file so that a reader sees the old bytes or the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    finally:
        new.unlink(missing_ok=True)


def link(old: Path, new: Path) -> None:
    """A second name of a file that nobody changes; a copy where the file system has no such thing."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copyfile(old, new)


def flush(path: Path, deep: bool = True) -> None:
    """fsync a file, or a folder and (deep) all that is in it."""
    if deep and path.is_dir():
        for child in path.iterdir():
            flush(child)
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(scratch: Path) -> None:
    """Remove what processes that are gone left behind."""
    for left in scratch.glob("*") if scratch.is_dir() else ():
        pid = left.name.removesuffix(".old").rpartition(".")[2]
        if pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
