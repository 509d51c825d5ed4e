"""Files as streams of bytes, unpacked by their last suffix: .gz, .bz2, .zst. Must not know what is in them."""

from __future__ import annotations

import bz2
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from ntkcli.errors import DataError, UsageError

COMPRESSED: Final = {".gz": "gzip", ".bz2": "bzip2", ".zst": "zstandard"}
"""Suffixes that stand behind another, and their names."""
_MARKS: Final = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\x28\xb5\x2f\xfd": ".zst"}
"""First bytes of packed files."""
_BOM: Final = b"\xef\xbb\xbf"
_UTF16_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")


class Place:
    """The read position, reported when a file is truncated: the `number` of the last `unit` (row, line) read."""

    def __init__(self, unit: str) -> None:
        self.unit, self.number = unit, 0


@contextmanager
def opened(path: Path, place: Place) -> Iterator[IO[bytes]]:
    """The unpacked bytes. UsageError if the file can't be opened, DataError naming the place where it breaks off."""
    packed = COMPRESSED.get(path.suffix.lower())
    try:
        with _open(path, packed) as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _broken(path, packed, place, error) from error
    except OSError as error:
        if error.errno is None and packed:  # of the unpacker, not of the system
            raise _broken(path, packed, place, error) from error
        raise UsageError(f"{path} can't be read: {error.strerror or error}.") from error


def without_bom(path: Path, data: bytes) -> bytes:
    """The first bytes of a text without their byte order mark. DataError if it is one of UTF-16."""
    if data.startswith(_UTF16_BOMS):
        raise DataError(
            f"{path} is in UTF-16, and rows are read as UTF-8.",
            "Convert it: iconv -f UTF-16 -t UTF-8 IN > OUT",
        )
    return data.removeprefix(_BOM)


def packing_of(start: bytes) -> str:
    """The suffix of a file with these first bytes, ".gz" for one; "" if it isn't packed."""
    return next((suffix for mark, suffix in _MARKS.items() if start.startswith(mark)), "")


def first_bytes(path: Path, packing: str, count: int) -> bytes:
    """The first unpacked bytes of a file, whatever its name; b"" if it is broken."""
    try:
        with _open(path, COMPRESSED.get(packing)) as file:
            return file.read(count)
    except (EOFError, zlib.error, OSError):
        return b""


def _open(path: Path, packed: str | None) -> IO[bytes]:
    if packed == "gzip":
        return io.BufferedReader(gzip.GzipFile(path, "rb"))
    if packed == "bzip2":
        return bz2.open(path, "rb")
    if packed == "zstandard":
        import pyarrow as pa  # the standard library has none before Python 3.14

        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return path.open("rb")


def _broken(path: Path, packed: str | None, place: Place, error: Exception) -> DataError:
    return DataError(
        f"{path} is not a complete {packed} file: it breaks off after {place.unit} {place.number} ({error}).",
        "Make or copy the file again.",
    )
