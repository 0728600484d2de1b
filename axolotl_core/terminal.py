"""What is printed for a person. Text that comes from rows, names, files and models may hold control characters, which could move the
cursor, change colours or write to the clipboard of a terminal: they are shown escaped, `\\x1b[2J`.
"""

import re
import sys
from typing import Any

HARMFUL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but for tab and newline, marks that turn the direction of text, halves of surrogate pairs."""


def printable(text: str) -> str:
    r"""
    >>> printable("a\tb\x1b[2J\r")
    'a\tb\\x1b[2J\\r'
    """
    return HARMFUL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def say(text: str = "", *, end: str = "\n") -> None:
    """Print to standard output."""
    _write(sys.stdout, printable(text) + end)


def warn(text: str = "", *, end: str = "\n") -> None:
    """Print to standard error."""
    _write(sys.stderr, printable(text) + end)


def styled(text: str) -> None:
    """Print text with escape sequences of our own; what is not ours must be `printable` already."""
    _write(sys.stdout, text + "\n")


def _write(stream: Any, text: str) -> None:
    """Characters that the terminal's encoding lacks are escaped too."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
