"""Every error a user can cause, as one tree.

    AxolotlError              exit status 1
    ├── ParamsError           what params.yaml or the command line asks for cannot be      exit status 2
    ├── DataError             a file or a row of the user's cannot be read
    ├── ArtifactError         an artifact is missing, damaged or of another version
    ├── ModelError            a base model or tokenizer cannot be had, or does not fit what is asked
    ├── TrainError            training cannot go on: non-finite loss, another run holds the lock
    │   └── Interrupted       a signal ended training; a checkpoint was written                exit status 75
    └── MachineError          the disk is full, a package or a device is missing

A message is one sentence: place, got, wanted, remedy. The cli prints it without a traceback; anything that is
not an AxolotlError is our own fault and keeps its traceback.
"""

import difflib
import errno
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says of a full disk."""


class AxolotlError(Exception):
    """A mistake that the user can mend; `str()` is what is printed."""

    exit_status = 1


class ParamsError(AxolotlError):
    """One or several problems of params.yaml, one sentence a line."""

    exit_status = 2


class DataError(AxolotlError):
    """A file or a row of the user's cannot be read."""


class ArtifactError(AxolotlError):
    """An artifact is missing, damaged or of another version."""


class ModelError(AxolotlError):
    """A base model or tokenizer cannot be had, or does not fit what is asked."""


class TrainError(AxolotlError):
    """Training cannot go on."""


class Interrupted(TrainError):
    """A signal ended training after a checkpoint was written: the same command goes on. 75 is sysexits.h's "try again"."""

    exit_status = 75


class MachineError(AxolotlError):
    """The disk is full, or a package or a device is missing."""


@contextmanager
def foreign(message: Callable[[str], AxolotlError]) -> Iterator[None]:
    """A block in which another library reads a file that may be anything: whatever it raises is that file's fault.

    message: makes the error of what the library says, in one line. A disk that is full stays what it is.
    """
    try:
        yield
    except AxolotlError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise
        raise message(one_line(error)) from None


def one_line(error: BaseException) -> str:
    """What a library says, without its line breaks, and not all of it."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'lora_r'?"`, or an empty string when nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""
