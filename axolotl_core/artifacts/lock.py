"""A lock that ends with the process that holds it: flock on a file.

No process number is ever compared: in another container, or after a restart, it means another process or none.
"""

import fcntl
import os
from pathlib import Path


def take(path: Path) -> int | None:
    """The handle of a file that is locked until `release`, or until this process ends; None where another process holds it.

    The file is made where there is none. Raises OSError where it cannot be.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        if _is(path, handle):
            return handle
        os.close(handle)  # its holder removed it in the meantime: this is a lock on a file without a name


def own(path: Path) -> int:
    """The handle of a file whose name no other process knows, but for one that sweeps and lets go of it at once."""
    while (handle := take(path)) is None:
        pass
    return handle


def release(handle: int) -> None:
    os.close(handle)


def _is(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False
