"""Data files: rows in a stream, and rows picked by index. One row at a time is in memory. Must not know tokenizers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from ntkcli.data.find_source import find_source
from ntkcli.data.formats.records import Record
from ntkcli.data.llamafactory import find_entry
from ntkcli.data.places import Source
from ntkcli.data.problems import BAD_KEPT, none_usable
from ntkcli.data.rows import RAW, BadRow, Row, RowError, column_names
from ntkcli.data.schemas import Schema, detect, known_columns, known_schemas, read_row
from ntkcli.doors import Made
from ntkcli.errors import DataError, UsageError
from ntkcli.paths import home

_DETECT_ROWS: Final = 100  # a file whose first hundred rows fit no schema has none


class DataFile:
    """Rows under one schema: a file, a folder or glob of files, or a Hub id (`ntkcli.data.places`).

    Also an entry of LLaMA-Factory's `dataset_info.json`, whose columns and split come second to those given here.

    `columns` are the row's own names by the name that the schemas know; `split` is of a folder or Hub id.
    UsageError if there is nothing of that name that can be read. The rows are read again by every call; what was read
    between `watch` and `require_unchanged` is of one state.
    """

    def __init__(self, path: str | Path, *, columns: Mapping[str, str] | None = None, split: str | None = None) -> None:
        path = home(path)
        if (entry := find_entry(path)) is not None:
            path, columns, split = entry.reference, {**entry.columns, **(columns or {})}, split or entry.split
        self.path = Path(path)
        self.columns, self.split = dict(columns or {}), split
        if unknown := sorted(set(self.columns) - known_columns()):
            raise UsageError(
                f"--columns {unknown[0]}={self.columns[unknown[0]]}: no schema has a column {unknown[0]!r}.",
                f"Known are: {', '.join(sorted(known_columns()))}.",
            )
        self._source: Source = find_source(str(path), split=split)
        self._seen: list[Any] | None = None

    @property
    def reference(self) -> str:
        """What finds the rows again from any working directory."""
        return self._source.reference

    def state(self) -> list[Any]:
        """JSON values that are equal at two times if the rows are: path, size, time and inode of a file."""
        return self._source.state()

    @property
    def plugins(self) -> Made:
        """The readers of other packages that read it, as they appear in a spec."""
        return self._source.plugins

    def watch(self) -> list[Any]:
        """The `state` now, which `require_unchanged` compares with from here on."""
        self._seen = self.state()
        return self._seen

    def require_unchanged(self) -> None:
        """DataError if a file was changed, exchanged or removed since `watch`; nothing if that was never called."""
        try:
            changed = self._seen is not None and self.state() != self._seen
        except OSError:
            changed = True  # it is gone
        if changed:
            raise DataError(
                f"{self.path} was changed while it was read: its rows may not be those of its digest.",
                "Restore it, or run the same command again when nothing writes to it.",
            )

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
                if len(bad) < BAD_KEPT:
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
            raise none_usable(bad, n_bad)
        raise DataError(f"{self.path} has no rows.", "Give a file with rows.")

    def records(self) -> Iterator[Record]:
        """Every row in order as its reader finds it, not decoded yet."""
        return self._source.records()

    def rows(self, indices: Iterable[int] | None = None) -> Iterator[Row | BadRow]:
        """Every row in order, or those at these ascending 0-based `indices` as far as there are any.

        Rows that are passed over are not decoded. A repeated id is found by `scan` only, which looks at all ids.
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


def pick(file: DataFile, indices: Iterable[int]) -> Iterator[Row]:
    """The rows at these 0-based indices, each once, ascending. DataError if one is bad or not there."""
    wanted = np.unique(np.fromiter(indices, dtype=np.int64))
    if wanted.size and wanted[0] < 0:
        raise IndexError(f"row {wanted[0]}")
    found = 0
    for row in file.rows(wanted.tolist()):
        if isinstance(row, BadRow):
            raise DataError(f"{row.place} can't be used: {row.reason}.", "Fix the row.")
        found += 1
        yield row
    file.require_unchanged()
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
