"""Data files: rows in a stream, one scan that finds every problem, and rows picked by index.

Must not know tokenizers. `DataFile.rows` and `pick` hold one row at a time; `scan` holds ids, codes and
status.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from ntkcli.data.columns import renamed
from ntkcli.data.llamafactory import find_entry
from ntkcli.data.records import Record
from ntkcli.data.rows import RAW, BadRow, Row, RowError, canonical_row, column_names, own_id
from ntkcli.data.schemas import Schema, detect, known_columns, known_schemas, read_row
from ntkcli.data.sources import Source, find_source
from ntkcli.errors import DataError, UsageError
from store import RowStatus

OnError = Literal["fail", "skip"]

_DETECT_ROWS: Final = 100  # a file whose first hundred rows fit no schema has none
_BAD_KEPT: Final = 20  # of the bad rows, with their reasons; the rest is counted
_LINES_NAMED: Final = 5  # in an error of one line


class DataFile:
    """Rows under one schema: a file, a folder or glob of files, or a Hub id (`ntkcli.data.sources`).

    Also an entry of LLaMA-Factory's `dataset_info.json`, whose columns and split come second to those given here.

    `columns` are the row's own names by the name that the schemas know; `split` is of a folder or Hub id.
    UsageError if there is nothing of that name that can be read. The rows are read anew by every call and must
    not change in between; `scan(...).digest` tells whether they did.
    """

    def __init__(self, path: str | Path, *, columns: Mapping[str, str] | None = None, split: str | None = None) -> None:
        if (entry := find_entry(str(path))) is not None:
            path, columns, split = entry.reference, {**entry.columns, **(columns or {})}, split or entry.split
        self.path = Path(path)
        self.columns, self.split = dict(columns or {}), split
        if unknown := sorted(set(self.columns) - known_columns()):
            raise UsageError(
                f"--columns {unknown[0]}={self.columns[unknown[0]]}: no schema has a column {unknown[0]!r}.",
                f"Known are: {', '.join(sorted(known_columns()))}.",
            )
        self._source: Source = find_source(str(path), split=split)

    @property
    def reference(self) -> str:
        """What finds the rows again from any working directory."""
        return self._source.reference

    def state(self) -> list[Any]:
        """JSON values that are equal at two times if the rows are: path, size, time and inode of a file."""
        return self._source.state()

    @cached_property
    def schema(self) -> Schema:
        """The schema of the first row that fits one; all rows must follow it. DataError if none does."""
        bad: list[BadRow] = []
        n_bad = n_unknown = 0
        unknown = ""
        for index, record in enumerate(self.records()):
            try:
                raw = record.raw()
            except RowError as error:
                n_bad += 1
                if len(bad) < _BAD_KEPT:
                    bad.append(_bad(index, record, error))
                continue
            if (schema := detect(raw, self.columns)) is not None:
                return schema
            n_unknown += 1
            unknown = unknown or f"{record.path} {record.unit} {record.line} fits no schema: {self._misfit(raw)}"
            if n_unknown == _DETECT_ROWS:
                break
        if unknown:
            raise DataError(f"{unknown}; {known_schemas()}.", "Rename the columns, or give --columns known=own,...")
        if bad:
            raise _none_usable(bad, n_bad)
        raise DataError(f"{self.path} has no rows: every line in it is blank.", "Give a file with rows.")

    def records(self) -> Iterator[Record]:
        """Every row in order as its reader finds it, not decoded yet."""
        return self._source.records()

    def rows(self, indices: Iterable[int] | None = None) -> Iterator[Row | BadRow]:
        """Every row in order, or those at these ascending 0-based `indices` as far as there are any.

        Rows that are passed over are not decoded. A repeated id is found by `scan` only, which keeps all ids.
        """
        schema = self.schema
        if indices is None:
            for index, record in enumerate(self.records()):
                yield _read(schema, index, record, self.columns)
            return
        records, position = self.records(), -1
        for index in indices:
            for record in records:
                position += 1
                if position == index:
                    yield _read(schema, index, record, self.columns)
                    break

    def _misfit(self, raw: RAW) -> str:
        lost = [f"{own!r}" for own in self.columns.values() if own.partition(".")[0] not in raw]
        told = f" and not {', '.join(lost)} as --columns says" if lost else ""
        return f"it has {column_names(raw)}{told}"


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
    for row in _unique(file.rows(), file.columns):
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
        raise _none_usable(bad, n_bad)
    if bad and on_error == "fail":
        raise DataError(
            f"{_tell(bad, n_bad)}.",
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
    found = 0
    for row in file.rows(wanted.tolist()):
        if isinstance(row, BadRow):
            raise DataError(f"{row.place} can't be used: {row.reason}.", "Mend the row.")
        found += 1
        yield row
    if found < wanted.size:
        raise DataError(
            f"{file.path} has {sum(1 for _ in file.records())} rows, and row {wanted[found]} (counted from 0) was "
            "asked for: it is not the file that the rows were chosen from.",
            "Give that file.",
        )


def _read(schema: Schema, index: int, record: Record, columns: Mapping[str, str]) -> Row | BadRow:
    try:
        return read_row(
            schema,
            record.raw(),
            index=index,
            line=record.line,
            columns=columns,
            file=str(record.path),
            unit=record.unit,
        )
    except RowError as error:
        return _bad(index, record, error)


def _bad(index: int, record: Record, error: RowError) -> BadRow:
    digest = hashlib.sha256(record.data()).hexdigest()
    return BadRow(index, record.line, error.reason, int(error.status), digest, str(record.path), record.unit)


def _unique(rows: Iterable[Row | BadRow], columns: Mapping[str, str]) -> Iterator[Row | BadRow]:
    """The rows, those whose own id stood there before as bad rows. Equal rows without an id may repeat."""
    seen: dict[str, int | str] = {}
    first_file: str | None = None
    for row in rows:
        if isinstance(row, Row) and own_id(renamed(row.raw, columns)) is not None:
            first_file = row.file if first_file is None else first_file
            if (first := seen.get(row.row_id)) is not None:
                digest = hashlib.sha256(canonical_row(row)).hexdigest()
                where = f"{row.unit} {first}" if isinstance(first, int) else first
                where += f" of {first_file}" if isinstance(first, int) and row.file != first_file else ""
                reason = f"the id {row.row_id!r} stands already in {where}"
                unreadable = int(RowStatus.UNREADABLE)
                yield BadRow(row.index, row.line, reason, unreadable, digest, row.file, row.unit)
                continue
            seen[row.row_id] = row.line if row.file == first_file else row.place  # numbers are small
        yield row


def _none_usable(bad: Sequence[BadRow], n_bad: int) -> DataError:
    return DataError(f"{bad[0].file} has no row that can be used: {_tell(bad, n_bad, name=False)}.", "Mend the rows.")


def _tell(bad: Sequence[BadRow], n_bad: int, *, name: bool = True) -> str:
    """ "FILE line 17: REASON, and 3 more rows: lines 19, 22, 25": the first bad row, and where the others are."""
    first = bad[0]
    text = f"{first.place if name else f'{first.unit} {first.line}'}: {first.reason}"
    if n_bad == 1:
        return text
    more = bad[1 : 1 + _LINES_NAMED]
    one_file = all(row.file == first.file for row in more)
    lines = ", ".join(str(row.line) if one_file else row.place for row in more)
    lines += ", ..." if n_bad - 1 > len(more) else ""
    rows, unit = ("row", first.unit) if n_bad == 2 else ("rows", f"{first.unit}s")
    return f"{text}, and {n_bad - 1} more {rows}: {f'{unit} ' if one_file else ''}{lines}"
