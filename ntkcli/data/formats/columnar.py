"""Rows of parquet and arrow files, a batch at a time; rows that are passed over are never turned into objects.

Values that JSON lacks become text: times and decimals; bytes become base64; numbers that are not finite become null.
Maps become objects, or lists of {key, value} where keys repeat or are objects or lists themselves.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ntkcli.data.formats.compression import LARGE_BYTES
from ntkcli.data.formats.records import Record, checked
from ntkcli.data.rows import RAW, RowError
from ntkcli.errors import DataError, UsageError
from ntkcli.progress import ShownFile, shown

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
        """All rows, or None if one of them holds a value that Python has none for, or text that is not UTF-8."""
        try:
            return plain_rows(self._batch)
        except (ValueError, OverflowError, LookupError, ArithmeticError):
            return None

    def row(self, position: int) -> RAW:
        """One row. RowError if its text is not UTF-8."""
        if self._rows is not None:
            return self._rows[position]
        try:
            return {name: _of_scalar(column[position]) for name, column in self._columns()}
        except UnicodeDecodeError as error:
            raise RowError(f"not UTF-8: byte 0x{error.object[error.start]:02x}") from error

    def _columns(self) -> Iterator[tuple[str, Any]]:
        yield from zip(self._batch.schema.names, self._batch.columns, strict=True)


def plain_rows(batch: pa.RecordBatch) -> list[RAW]:
    """All rows as objects of JSON values. ValueError, OverflowError or LookupError where Python lacks a value."""
    kinds = {field.name: field.type for field in batch.schema}
    mapped = {name for name, kind in kinds.items() if _has_map(kind)}
    if not mapped:
        return [_plain(row) for row in batch.to_pylist()]
    return [
        {name: _typed(value, kinds[name]) if name in mapped else _plain(value) for name, value in row.items()}
        for row in batch.to_pylist()
    ]


def read_parquet(path: Path) -> Iterator[Record]:
    """Every row of a parquet file. DataError if it is none, or breaks off."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            large = path.stat().st_size >= LARGE_BYTES
            batches = file.iter_batches(_BATCH_ROWS)
            yield from table_records(path, _shown(path, batches, file.metadata.num_rows) if large else batches)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, "parquet", error) from error


def _shown(path: Path, batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    with shown(f"reading {path.name}", total=rows, unit="rows") as advance:
        for batch in batches:
            yield batch
            advance(batch.num_rows)


def read_arrow(path: Path) -> Iterator[Record]:
    """Every row of an arrow (IPC) file, of the stream or the file form. DataError if it is neither."""
    import pyarrow as pa

    try:
        # Not mapped: a mapped file that is cut while it is read ends the process.
        with (
            ShownFile(path, label=f"reading {path.name}", after=LARGE_BYTES // 2).buffered() as file,
            pa.PythonFile(file, "r") as source,
        ):
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
        names = large.schema.names
        if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
            raise DataError(f"{path} has two columns called {twice!r}.", "Rename one of them.")
        for start in range(0, large.num_rows, _BATCH_ROWS):
            batch = Batch(large.slice(start, _BATCH_ROWS))
            for position in range(min(_BATCH_ROWS, large.num_rows - start)):
                number += 1
                yield TableRow(path, number, batch, position)


def _unreadable(path: Path, kind: str, error: Exception) -> DataError | UsageError:
    if isinstance(error, OSError) and error.errno is not None:
        return UsageError(f"{path} can't be read: {error.strerror or error}.")
    why = " ".join(str(error).split()).rstrip(".")
    return DataError(f"{path} is not a complete {kind} file ({why}).", "Make or copy the file again.")


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


def _has_map(kind: pa.DataType) -> bool:
    """Whether a type is a map or holds one."""
    import pyarrow as pa

    return pa.types.is_map(kind) or any(_has_map(kind.field(i).type) for i in range(kind.num_fields))


def _typed(value: Any, kind: pa.DataType) -> Any:
    """As `_plain`, of a value whose type holds a map somewhere."""
    import pyarrow as pa

    if value is None or not kind.num_fields:
        return _plain(value)
    if pa.types.is_map(kind):
        return _mapped([(_typed(key, kind.key_type), _typed(item, kind.item_type)) for key, item in value])
    if pa.types.is_struct(kind):
        return {field.name: _typed(value[field.name], field.type) for field in kind}
    return [_typed(item, kind.value_type) for item in value] if isinstance(value, list) else _plain(value)


def _mapped(pairs: list[tuple[Any, Any]]) -> Any:
    """A map's pairs as an object; as a list of objects with key and value where one object would lose some."""
    keys = [key if isinstance(key, str) else json.dumps(key) for key, _ in pairs]
    if len(set(keys)) == len(keys) and not any(isinstance(key, list | dict) for key, _ in pairs):
        return dict(zip(keys, (item for _, item in pairs), strict=True))
    return [{"key": key, "value": item} for key, item in pairs]


def _of_scalar(scalar: Any) -> Any:  # noqa: PLR0911  (one for each kind of type)
    """As `_plain`, of a value that may be none of Python's: the year 10000, a time zone that isn't known here."""
    import pyarrow as pa

    if not scalar.is_valid:
        return None
    kind = scalar.type
    if pa.types.is_dictionary(kind):
        return _of_scalar(scalar.value)
    if pa.types.is_map(kind):
        entries = scalar.values
        return _mapped([(_of_scalar(entry["key"]), _of_scalar(entry["value"])) for entry in entries])
    if pa.types.is_struct(kind):
        return {kind.field(i).name: _of_scalar(scalar[i]) for i in range(kind.num_fields)}
    if kind.num_fields:
        return [_of_scalar(item) for item in scalar.values]
    try:
        return _plain(scalar.as_py())
    except UnicodeDecodeError:
        raise
    except (ValueError, OverflowError, LookupError, ArithmeticError):
        return _as_text(scalar)


def _as_text(scalar: Any) -> str:
    """A time as arrow writes it: in UTC where its zone is not known."""
    import pyarrow as pa

    kind = scalar.type
    if pa.types.is_timestamp(kind):
        utc = scalar.cast(pa.int64()).cast(pa.timestamp(kind.unit))
        return str(utc.cast(pa.string()).as_py()).replace(" ", "T") + ("+00:00" if kind.tz else "")
    try:
        return str(scalar.cast(pa.string()).as_py())
    except pa.ArrowException:  # durations beyond Python's, which have no text
        return str(scalar.cast(pa.int64()).as_py())
