"""The bytes of a text file of the user's, decompressed where its suffix says that it is compressed."""

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import pyarrow as pa

from axolotl_core.errors import DataError
from axolotl_core.sources.place import COMPRESSED
from axolotl_core.sources.steady import Source

BOM = b"\xef\xbb\xbf"
OTHER_UNICODE = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
MOST_TIMES, FREE_BYTES = 300, 1 << 26
"""A compressed file may be so many times larger when it is read, and so many bytes in any case: JSON of like rows is some 20 times."""


@contextmanager
def opened(source: Source, shown: str) -> Iterator[IO[bytes]]:
    """The bytes of a text file, decompressed. Raises DataError: damaged compression, a file that swells beyond measure, UTF-16."""
    kind = COMPRESSED.get(source.path.suffix.lower())
    try:
        with source.open() as raw, _decompressed(raw, kind) as file:
            if kind is not None:
                file = _Limited(file, os.fstat(raw.fileno()).st_size, shown)
            buffered = io.BufferedReader(file) if not isinstance(file, io.BufferedReader) else file  # type: ignore[type-var]
            if name := OTHER_UNICODE.get(buffered.peek(2)[:2]):
                raise DataError(f"{shown}: is {name} text, wanted UTF-8; `iconv -f {name} -t UTF-8` converts it")
            yield buffered
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, pa.ArrowInvalid, OSError) as error:
        if kind is None or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise DataError(f"{shown}: cannot be decompressed as {kind}: {' '.join(str(error).split())}; fetch the file again") from None


def _decompressed(file: IO[bytes], kind: str | None) -> Any:
    match kind:
        case "gzip":
            return gzip.open(file, "rb")
        case "bz2":
            return bz2.open(file, "rb")
        case "xz":
            return lzma.open(file, "rb")
        case "zstd":
            return pa.CompressedInputStream(pa.PythonFile(file), "zstd")
    return file


class _Limited(io.RawIOBase):
    """A decompressed file that counts what it gives out."""

    def __init__(self, file: Any, size: int, shown: str) -> None:
        self.file, self.shown, self.left = file, shown, MOST_TIMES * size + FREE_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.file.read(len(buffer))
        self.left -= len(data)
        if self.left < 0:
            raise DataError(
                f"{self.shown}: is more than {MOST_TIMES:,} times as large when it is decompressed; decompress it yourself first"
            )
        buffer[: len(data)] = data
        return len(data)
