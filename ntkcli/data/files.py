"""Data files: rows in a stream, one scan that finds every problem, and rows picked by index.

Must not know tokenizers. `DataFile.rows` and `pick` hold one row at a time; `scan` holds ids, codes and
status.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from ntkcli.data.jsonl import Record, read_records
from ntkcli.data.rows import BadRow, Row, RowError, canonical_row, column_names, own_id
from ntkcli.data.schemas import Schema, detect, known_schemas, read_row
from ntkcli.errors import DataError, UsageError
from store import RowStatus

OnError = Literal["fail", "skip"]
Reader = Callable[[Path], Iterator[Record]]

READERS: Final[dict[str, Reader]] = {".jsonl": read_records, ".jsonl.gz": read_records}

_DETECT_ROWS: Final = 100  # a file whose first hundred rows fit no schema has none
_BAD_KEPT: Final = 20  # of the bad rows, with their reasons; the rest is counted
_LINES_NAMED: Final = 5  # in an error of one line


class DataFile:
    """A file of rows under one schema. UsageError if there is no such file or its suffix is not known.

    The file is read anew by every call and must not change in between; `scan(...).digest` tells whether it
    did.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._reader = _reader(self.path)

    @cached_property
    def schema(self) -> Schema:
        """The schema of the first row that fits one; all rows must follow it. DataError if none does."""
        bad: list[BadRow] = []
        n_bad = n_unknown = 0
        unknown = ""
        for index, record in enumerate(self.records()):
            if record.raw is None:
                n_bad += 1
                if len(bad) < _BAD_KEPT:
                    bad.append(_bad(index, record, RowError(record.reason)))
            elif (schema := detect(record.raw)) is not None:
                return schema
            else:
                n_unknown += 1
                unknown = unknown or f"line {record.line} fits no schema: it has {column_names(record.raw)}"
                if n_unknown == _DETECT_ROWS:
                    break
        if unknown:
            raise DataError(f"{self.path} {unknown}; {known_schemas()}.", "Rename the columns to fit one.")
        if bad:
            raise _none_usable(self.path, bad, n_bad)
        raise DataError(f"{self.path} has no rows: every line in it is blank.", "Give a file with rows.")

    def records(self) -> Iterator[Record]:
        """Every row in the file's order as its reader finds it: an object without a schema, or a reason."""
        return self._reader(self.path)

    def rows(self) -> Iterator[Row | BadRow]:
        """Every row in the file's order. A repeated id is found by `scan` only, which keeps all ids."""
        schema = self.schema
        for index, record in enumerate(self.records()):
            yield _read(schema, index, record)


@dataclass(frozen=True, slots=True, eq=False)
class Scan:
    """What is in a file, row by row.

    `digest` is 64 hex digits over the rows' content, whatever the file format, column names and key order;
    `source_codes` (n,) int32 are positions in `sources`, which stand in order of first appearance; `status`
    (n,) uint8 holds RowStatus; `bad` keeps the first 20 of `n_bad`. A bad row has the id "" and the label "".
    """

    n: int
    digest: str
    schema: str
    row_ids: list[str]
    sources: list[str]
    source_codes: npt.NDArray[np.int32]
    status: npt.NDArray[np.uint8]
    bad: tuple[BadRow, ...]
    n_bad: int


def scan(file: DataFile, *, on_error: OnError) -> Scan:
    """Read the whole file. DataError naming the bad rows, if `on_error` is "fail" or no row can be used."""
    digest = hashlib.sha256()
    row_ids: list[str] = []
    codes, status = array("i"), bytearray()
    sources: dict[str, int] = {}
    bad: list[BadRow] = []
    n_bad = 0
    for row in _unique(file.rows()):
        if isinstance(row, Row):
            row_id, source = row.row_id, row.source
            content = canonical_row(row)
            status.append(RowStatus.OK)
        else:
            row_id, source = "", ""
            content = f"bad {row.digest}".encode()
            status.append(row.status)
            n_bad += 1
            if len(bad) < _BAD_KEPT:
                bad.append(row)
        digest.update(content + b"\n")
        row_ids.append(row_id)
        codes.append(sources.setdefault(source, len(sources)))
    if n_bad == len(row_ids):
        raise _none_usable(file.path, bad, n_bad)
    if bad and on_error == "fail":
        raise DataError(
            f"{file.path} line {_tell(bad, n_bad)}.",
            "Mend the row, or give --on-error skip to leave such rows out.",
        )
    return Scan(
        n=len(row_ids),
        digest=digest.hexdigest(),
        schema=file.schema.name,
        row_ids=row_ids,
        sources=list(sources),
        source_codes=np.array(codes, dtype=np.int32),
        status=np.frombuffer(status, dtype=np.uint8).copy(),
        bad=tuple(bad),
        n_bad=n_bad,
    )


def pick(file: DataFile, indices: Iterable[int]) -> Iterator[Row]:
    """The rows at these 0-based indices, each once, ascending. DataError if one is bad or not there."""
    wanted = np.unique(np.fromiter(indices, dtype=np.int64))
    if wanted.size and wanted[0] < 0:
        raise IndexError(f"row {wanted[0]}")
    schema = file.schema
    records = enumerate(file.records())
    read = 0
    for target in wanted.tolist():
        for index, record in records:
            read = index + 1
            if index == target:
                row = _read(schema, index, record)
                if isinstance(row, BadRow):
                    raise DataError(f"{file.path} line {row.line} can't be used: {row.reason}.", "Mend the row.")
                yield row
                break
        else:
            raise DataError(
                f"{file.path} has {read} rows, and row {target} (counted from 0) was asked for: it is not "
                "the file that the rows were chosen from.",
                "Give that file.",
            )


def _reader(path: Path) -> Reader:
    if not path.exists():
        raise UsageError(f"{path} does not exist.", f"Give a file: {_known_suffixes()}.")
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", f"Give a file: {_known_suffixes()}.")
    if not path.is_file():
        raise UsageError(f"{path} is no regular file, and rows are read more than once.", "Write it to a file first.")
    for suffix, reader in READERS.items():
        if path.name.lower().endswith(suffix):
            return reader
    raise UsageError(f"{path} is of no kind that can be read.", f"Give a file: {_known_suffixes()}.")


def _known_suffixes() -> str:
    return " or ".join(READERS)


def _read(schema: Schema, index: int, record: Record) -> Row | BadRow:
    try:
        if record.raw is None:
            raise RowError(record.reason)
        return read_row(schema, record.raw, index=index, line=record.line)
    except RowError as error:
        return _bad(index, record, error)


def _bad(index: int, record: Record, error: RowError) -> BadRow:
    digest = hashlib.sha256(record.data.strip()).hexdigest()
    return BadRow(index, record.line, error.reason, int(error.status), digest)


def _unique(rows: Iterable[Row | BadRow]) -> Iterator[Row | BadRow]:
    """The rows, those whose own id stood there before as bad rows. Equal rows without an id may repeat."""
    lines: dict[str, int] = {}
    for row in rows:
        if isinstance(row, Row) and own_id(row.raw) is not None:
            first = lines.setdefault(row.row_id, row.line)
            if first != row.line:
                digest = hashlib.sha256(canonical_row(row)).hexdigest()
                reason = f"the id {row.row_id!r} stands already in line {first}"
                yield BadRow(row.index, row.line, reason, int(RowStatus.UNREADABLE), digest)
                continue
        yield row


def _none_usable(path: Path, bad: Sequence[BadRow], n_bad: int) -> DataError:
    return DataError(f"{path} has no row that can be used: line {_tell(bad, n_bad)}.", "Mend the rows.")


def _tell(bad: Sequence[BadRow], n_bad: int) -> str:
    """ "17: REASON, and 3 more rows: lines 19, 22, 25": the first bad row, and where the others are."""
    text = f"{bad[0].line}: {bad[0].reason}"
    if n_bad == 1:
        return text
    more = bad[1 : 1 + _LINES_NAMED]
    lines = ", ".join(str(row.line) for row in more) + (", ..." if n_bad - 1 > len(more) else "")
    rows, word = ("row", "line") if n_bad == 2 else ("rows", "lines")
    return f"{text}, and {n_bad - 1} more {rows}: {word} {lines}"
