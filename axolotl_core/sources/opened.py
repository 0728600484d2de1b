"""The bytes of a text file of the user's, decompressed where its suffix says that it is compressed."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from axolotl_core.errors import DataError
from axolotl_core.sources.place import COMPRESSED

BOM = b"\xef\xbb\xbf"
OTHER_UNICODE = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


@contextmanager
def opened(path: Path, shown: str) -> Iterator[IO[bytes]]:
    """The bytes of a text file, decompressed. Raises DataError: damaged compression, UTF-16."""
    kind = COMPRESSED.get(path.suffix.lower())
    try:
        with _decompressed(path, kind) as file:
            buffered = io.BufferedReader(file) if not isinstance(file, io.BufferedReader) else file  # type: ignore[arg-type]
            if name := OTHER_UNICODE.get(buffered.peek(2)[:2]):
                raise DataError(f"{shown}: is {name} text, wanted UTF-8; `iconv -f {name} -t UTF-8` converts it")
            yield buffered
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, pa.ArrowInvalid, OSError) as error:
        if kind is None or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise DataError(f"{shown}: cannot be decompressed as {kind}: {' '.join(str(error).split())}; fetch the file again") from None


def _decompressed(path: Path, kind: str | None) -> Any:
    match kind:
        case "gzip":
            return gzip.open(path, "rb")
        case "bz2":
            return bz2.open(path, "rb")
        case "xz":
            return lzma.open(path, "rb")
        case "zstd":
            return pa.CompressedInputStream(pa.OSFile(str(path), "rb"), "zstd")
    return path.open("rb")
