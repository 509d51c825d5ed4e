"""Standard input as a file, named by its content, because rows are read more than once. Streams.

The first bytes give the format: gzip, bzip2, zstandard, parquet and arrow by their marks, JSON and JSON Lines by
the first bracket, CSV and TSV by their header.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from ntkcli.data.formats.compression import first_bytes, packing_of
from ntkcli.data.schemas import known_columns
from ntkcli.errors import DataError, UsageError

STDIN: Final = "-"
"""What stands for it where a file is asked for."""

_BLOCK_BYTES: Final = 1 << 20
_HEAD_BYTES: Final = 1 << 16  # of a header
_NAME_DIGITS: Final = 16
_TABLES: Final = {b"PAR1": ".parquet", b"ARROW1": ".arrow", b"\xff\xff\xff\xff": ".arrow"}
"""First bytes of formats that pack by themselves; the last are those of arrow's stream form."""


def has_input() -> bool:
    """Whether standard input is open and no terminal."""
    return sys.stdin is not None and not sys.stdin.closed and not sys.stdin.isatty()


def keep(folder: Path, *, temp: Path) -> Path:
    """All of standard input as `folder/stdin-<digest>.<suffix>`, durable; written as `temp` first, on the same disk.

    Raises:
        UsageError: standard input is a terminal or closed.
        DataError: nothing came.
    """
    if not has_input():
        raise UsageError(
            "- reads rows from standard input, which is a terminal or closed.",
            "Pipe rows into it (COMMAND | ntksel ... -), or give a file.",
        )
    try:
        digest = _copy(sys.stdin.buffer, temp)
        final = folder / f"stdin-{digest[:_NAME_DIGITS]}{_suffix(temp)}"
        os.replace(temp, final)
    finally:
        temp.unlink(missing_ok=True)
    return final


def refuse_shared(option: str, references: Iterable[str], count: int) -> None:
    """UsageError if one of several processes is to read standard input, which can be read once."""
    if count > 1 and STDIN in references:
        raise UsageError(
            f"{option} -: standard input is read once, and this is one of {count} processes.", "Give a file."
        )


@contextmanager
def readable(reference: str) -> Iterator[str]:
    """The reference, or for `-` a file that is gone afterwards: for what writes nothing to a store."""
    if reference != STDIN:
        yield reference
        return
    with tempfile.TemporaryDirectory(prefix="ntksel-") as folder:
        yield str(keep(Path(folder), temp=Path(folder) / "stdin"))


def _copy(source: IO[bytes], path: Path) -> str:
    """Write all of `source` to `path`; returns its SHA-256."""
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        while block := source.read(_BLOCK_BYTES):
            digest.update(block)
            size += len(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    if not size:
        raise DataError("Nothing came by standard input.", "Pipe rows into it, or give a file.")
    return digest.hexdigest()


def _suffix(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(8)
    for mark, suffix in _TABLES.items():
        if start.startswith(mark):
            return suffix
    packing = packing_of(start)
    return _text_suffix(first_bytes(path, packing, _HEAD_BYTES)) + packing


def _text_suffix(head: bytes) -> str:
    """By the first character that is not white space, else by what separates the first line's cells."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] in (b"{", b"["):
        return ".jsonl" if text[:1] == b"{" else ".json"
    header = text.partition(b"\n")[0].strip()
    if b"\t" in header:
        return ".tsv"
    is_column = header.decode("utf-8", "replace").strip('"') in known_columns()
    return ".csv" if b"," in header or is_column else ".jsonl"
