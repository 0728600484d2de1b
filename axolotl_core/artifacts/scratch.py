"""Writing so that nothing is lost: build aside, flush to the disk, put in place.

with building(final) as folder:              # .<name>.<uuid> beside `final`, so always on its disk
    …write files…                            # an error or a kill here leaves `final` as it was
    replace(folder / "artifact", final)      # the two are exchanged in one step: there is no moment without one

What a process that was killed leaves is swept by the next: its lock is free then (lock.py).
"""

import ctypes
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from axolotl_core.artifacts import lock
from axolotl_core.errors import FULL, MachineError

CLOSED = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
"""What it says of a place that may not be written."""
LEFT = re.compile(r"\..+\.[0-9a-f]{32}(\.lock)?")
"""Names of what is being built; a folder has a lock beside it, a file is locked itself."""
AT_FDCWD, RENAME_EXCHANGE = -100, 2


@contextmanager
def building(final: Path) -> Iterator[Path]:
    """An empty folder beside `final` to build it in; it is gone when the block ends.

    Raises MachineError where the disk is full or cannot be written; the previous `final` then stays.
    """
    final = place_of(final)
    folder = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
    held = folder.with_name(f"{folder.name}.lock")
    handle = None
    try:
        with writing(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            sweep(final.parent)
            handle = lock.own(held)
            folder.mkdir()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            with suppress(OSError):
                held.unlink()
            lock.release(handle)


@contextmanager
def writing(final: Path) -> Iterator[None]:
    """A block that writes for `final`, in which a full or closed disk is told as a MachineError."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if message := cannot_write(error, final.parent):
            raise MachineError(f"{final}: {message}; the previous one was left as it was") from None
        raise


def cannot_write(error: Exception, below: Path) -> str | None:
    """What to tell of a disk that is full, or of a file below a folder that may not be written; None for any other error.

    safetensors and torch report a full disk in words of their own.
    """
    number = error.errno if isinstance(error, OSError) else None
    words = any(f"os error {n}" in str(error) for n in FULL) or "inline_container" in str(error)
    if number in FULL or (number is None and words):
        return f"the disk is full ({error}); free some space and run again"
    file = getattr(error, "filename", None)
    if number in CLOSED and (file is None or Path(os.fsdecode(file)).absolute().is_relative_to(below.absolute())):
        return f"cannot be written ({os.strerror(number or 0)}); make the folder writable"
    return None


def place_of(final: Path) -> Path:
    """Where an artifact really lies: a folder that is a link to one of a larger disk stays there."""
    return Path(os.path.realpath(final)) if final.is_dir() else Path(os.path.realpath(final.parent)) / final.name


def replace(new: Path, final: Path) -> None:
    """Put the folder or file `new` where `final` is; the old one goes only when the new one stands.

    Two processes may do this at once: the later one's stays.
    """
    final = place_of(final)
    flush(new)
    final.parent.mkdir(parents=True, exist_ok=True)
    if new.is_dir():
        _replace_folder(new, final)
    else:
        _replace_file(new, final)
    flush(final.parent, deep=False)


def _replace_file(new: Path, final: Path) -> None:
    try:
        new.replace(final)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        write_atomically(final, new.read_bytes())


def _replace_folder(new: Path, final: Path) -> None:
    while True:
        try:
            new.rename(final)  # over nothing, or over an empty folder
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        with suppress(FileNotFoundError):  # another process is between its two renames
            if _exchange(new, final):
                shutil.rmtree(new)
                return
            final.rename(new.with_name(f"{new.name}-old-{uuid.uuid4().hex}"))  # a file system without exchange


def _exchange(a: Path, b: Path) -> bool:
    """Swap two names in one step. False where the file system or the machine cannot. Raises FileNotFoundError where one is gone."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    if renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE) == 0:
        return True
    if (number := ctypes.get_errno()) == errno.ENOENT:
        raise FileNotFoundError(number, os.strerror(number), str(b))
    return False


def write_atomically(path: Path, data: bytes) -> None:
    """Write a small file so that a reader sees the old bytes or the new ones.

    Raises MachineError where the disk is full or cannot be written.
    """
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = lock.own(new)  # what is locked is not swept
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            new.rename(path)
    except OSError as error:
        if message := cannot_write(error, path.parent):
            raise MachineError(f"{path}: {message}; the previous one was left as it was") from None
        raise
    finally:
        with suppress(OSError):
            new.unlink()


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


def sweep(folder: Path) -> None:
    """Remove what processes that are gone left in a folder: everything that is being built and that nobody locks."""
    with suppress(OSError):
        for name in [entry.name for entry in os.scandir(folder) if LEFT.fullmatch(entry.name)]:
            _sweep(folder / name)


def _sweep(path: Path) -> None:
    """path: a file that is locked itself, or the lock of a folder, which goes first."""
    with suppress(OSError):
        if path.is_dir():
            if not path.with_name(f"{path.name}.lock").exists():  # which is made before the folder and goes after it
                shutil.rmtree(path, ignore_errors=True)
            return
        if not path.exists() or (handle := lock.take(path)) is None:
            return
        try:
            if path.suffix == ".lock":
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            path.unlink()
        finally:
            lock.release(handle)
