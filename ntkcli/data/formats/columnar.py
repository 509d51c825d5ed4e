"""Rows of parquet and arrow files, a batch at a time; rows that are passed over are never turned into objects.

Values that JSON lacks become text: times, decimals; bytes become base64; NaN becomes null.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ntkcli.data.formats.records import Record, checked
from ntkcli.data.rows import RAW, RowError
from ntkcli.errors import DataError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH_ROWS: Final = 256  # of long rows some MB


class TableRow(Record):
    """A row of a batch."""

    __slots__ = ("_batch", "_position")

    def __init__(self, path: Path, line: int, batch: Batch, position: int) -> None:
        super().__init__(path, line)
        self._batch, self._position = batch, position

    def raw(self) -> RAW:
        """The row as an object of JSON values."""
        return checked(self._batch.row(self._position))

    def data(self) -> bytes:
        """The row as JSON, or where it stands if its text can't be read."""
        try:
            return json.dumps(self._batch.row(self._position), default=str).encode()
        except RowError:
            return f"undecodable row {self.line}".encode()


class Batch:
    """Some rows of a table, turned into objects together when the first of them is asked for."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    @cached_property
    def _rows(self) -> list[RAW] | None:
        """All rows, or None if one of them holds text that is not UTF-8."""
        try:
            return [_plain(row) for row in self._batch.to_pylist()]
        except UnicodeDecodeError:
            return None

    def row(self, position: int) -> RAW:
        """One row. RowError if its text is not UTF-8."""
        if self._rows is not None:
            return self._rows[position]
        try:
            row: RAW = _plain(self._batch.slice(position, 1).to_pylist()[0])
        except UnicodeDecodeError as error:
            raise RowError(f"not UTF-8: byte 0x{error.object[error.start]:02x}") from error
        return row


def read_parquet(path: Path) -> Iterator[Record]:
    """Every row of a parquet file. DataError if it is none, or breaks off."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield from table_records(path, file.iter_batches(_BATCH_ROWS))
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, "parquet", error) from error


def read_arrow(path: Path) -> Iterator[Record]:
    """Every row of an arrow (IPC) file, of the stream or the file form. DataError if it is neither."""
    import pyarrow as pa

    try:
        with pa.OSFile(str(path)) as source:  # not mapped: a mapped file that is cut while it is read ends the process
            yield from table_records(path, _arrow_batches(source))
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, "arrow", error) from error


def _arrow_batches(source: pa.NativeFile) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    if source.read(6) == b"ARROW1":
        file = pa.ipc.open_file(source)
        yield from (file.get_batch(i) for i in range(file.num_record_batches))
        return
    source.seek(0)
    yield from pa.ipc.open_stream(source)


def table_records(path: Path, batches: Iterable[pa.RecordBatch], *, first: int = 0) -> Iterator[Record]:
    """The rows of the batches in a row, numbered from `first` + 1."""
    number = first
    for large in batches:
        for start in range(0, large.num_rows, _BATCH_ROWS):
            batch = Batch(large.slice(start, _BATCH_ROWS))
            for position in range(min(_BATCH_ROWS, large.num_rows - start)):
                number += 1
                yield TableRow(path, number, batch, position)


def _unreadable(path: Path, kind: str, error: Exception) -> DataError | UsageError:
    if isinstance(error, OSError) and error.errno is not None:
        return UsageError(f"{path} can't be read: {error.strerror or error}.")
    why = " ".join(str(error).split()).rstrip(".")
    return DataError(f"{path} is no whole {kind} file ({why}).", "Make or copy the file again.")


def _plain(value: Any) -> Any:
    """A value of a table as one of JSON."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
