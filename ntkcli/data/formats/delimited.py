"""Rows of CSV and TSV files under their header, with a reason for each that doesn't follow it. Streams."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from ntkcli.data.formats.compression import Place, opened, without_bom
from ntkcli.data.formats.records import MAX_FIELD_BYTES, ParsedRecord, Record
from ntkcli.data.rows import Untyped
from ntkcli.errors import DataError


class Cells(ParsedRecord):
    """A record of a delimited file; its number is that of its first line, as quoted cells hold line feeds."""

    __slots__ = ()
    unit = "line"


def read_csv(path: Path) -> Iterator[Record]:
    """Every record below the header of a comma-separated file, cells as text."""
    return read_delimited(path, ",")


def read_tsv(path: Path) -> Iterator[Record]:
    """Every record below the header of a tab-separated file, cells as text."""
    return read_delimited(path, "\t")


def read_delimited(path: Path, delimiter: str) -> Iterator[Record]:
    """Every record below the header, cells as text."""
    place = Place("line")
    with opened(path, place) as file:
        without_bom(path, file.peek(2)[:2] if isinstance(file, io.BufferedReader) else b"")
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        csv.field_size_limit(MAX_FIELD_BYTES)
        rows = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            header = _header(path, next(rows, []))
            place.number = rows.line_num
            for cells in rows:
                line, place.number = place.number + 1, rows.line_num
                if cells:
                    yield _record(path, line, header, cells)
        except csv.Error as error:
            raise DataError(
                f"{path} line {place.number + 1} is not a valid delimited row: {error}.",
                "Quote cells that hold quotes, and double the quotes in them.",
            ) from error


def _header(path: Path, header: list[str]) -> list[str]:
    names = [name.strip() for name in header]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None:
        raise DataError(f"{path} has the column {twice!r} twice in its header.", "Rename one of them.")
    return names


def _record(path: Path, line: int, header: list[str], cells: list[str]) -> Record:
    if len(cells) != len(header):
        reason = f"it has {len(cells)} cells, and the header names {len(header)} columns"
        return Cells(path, line, cells, reason)
    for name, cell in zip(header, cells, strict=True):
        if not cell.isascii() and not _is_text(cell):
            return Cells(path, line, cells, f"the column {name!r} is not UTF-8")
    return Cells(path, line, Untyped(zip(header, cells, strict=True)))


def _is_text(cell: str) -> bool:
    """False if a byte of the file was not UTF-8: it stands in the cell as half a surrogate."""
    try:
        cell.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
