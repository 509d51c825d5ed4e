"""Rows as lines of JSON and as an arrow table that hold the same values, or a refusal that names the column.

A table has one type per column: a key or column that a row lacks becomes null there, and so does an empty object
where no row has a key. Numbers that are not finite become null in both, as JSON has none.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from ntkcli.errors import DataError
from ntkcli.finite import finite

if TYPE_CHECKING:
    import pyarrow as pa

Record = dict[str, Any]
_EXACT: Final = 2**53
"""Whole numbers up to it are exact as float64."""
_MOST_KEYS: Final = 1000
"""Of the objects in a column of a table: each becomes a column of its own there."""


def json_lines(records: Iterable[Record]) -> bytes:
    """A line for each record. DataError for one that is nested too deeply."""
    return b"".join(_line(record) for record in records)


def table_of(records: Sequence[Record]) -> pa.Table:
    """A column for each name that any record has, null where one lacks it.

    Raises:
        DataError: no column type holds a column's values exactly.
    """
    import pyarrow as pa

    columns = {}
    for name in dict.fromkeys(name for record in records for name in record):
        try:
            values = [finite(record.get(name)) for record in records]
            columns[name] = pa.array(values, type=_type_of(values))
        except _NoTypeError as error:
            raise _refused(name, str(error)) from error
        except (pa.ArrowException, RecursionError) as error:
            raise _refused(name, " ".join(str(error).split())) from error
    return pa.table(columns)


def _refused(name: str, why: str) -> DataError:
    return DataError(
        f"A table can't hold the rows' column {name!r}: {why}.", "Export .jsonl, or a trainer's columns by --format."
    )


class _NoTypeError(Exception):
    """No type of arrow holds the values; the message says why."""


def _line(record: Record) -> bytes:
    try:
        try:
            text = json.dumps(record, ensure_ascii=False, allow_nan=False)
        except ValueError:
            text = json.dumps(finite(record), ensure_ascii=False, allow_nan=False)
    except RecursionError as error:
        raise DataError("A row is nested too deeply to be exported.", "Leave it out with --exclude.") from error
    return text.encode() + b"\n"


def _type_of(values: Iterable[Any]) -> pa.DataType:
    """The type that holds all these JSON values exactly."""
    import pyarrow as pa

    values = [value for value in values if value is not None]
    kinds = {_kind(value) for value in values}
    if not kinds:
        return pa.null()
    if kinds <= {"integer", "number"}:
        return _number_type(values, whole=kinds == {"integer"})
    if len(kinds) > 1:
        raise _NoTypeError(f"it is of mixed types ({', '.join(sorted(kinds))})")
    (kind,) = kinds
    if kind == "list":
        return pa.list_(_type_of(item for value in values for item in value))
    if kind == "object":
        return _object_type(values)
    return pa.bool_() if kind == "truth value" else pa.string()


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "truth value"
    names = {int: "integer", float: "number", str: "text", list: "list", dict: "object"}
    return next(name for kind, name in names.items() if isinstance(value, kind))


def _number_type(values: Sequence[Any], *, whole: bool) -> pa.DataType:
    import pyarrow as pa

    integers = [value for value in values if isinstance(value, int)]
    low, high = min(integers, default=0), max(integers, default=0)
    if not whole:
        if max(-low, high) > _EXACT:
            raise _NoTypeError(f"it has fractions and the integer {high if high > -low else low}")
        return pa.float64()
    if low >= -(2**63) and high < 2**63:
        return pa.int64()
    if low >= 0 and high < 2**64:
        return pa.uint64()
    raise _NoTypeError(f"it has integers of more than 64 bits ({_short(low)} to {_short(high)})")


def _object_type(values: Sequence[Record]) -> pa.DataType:
    import pyarrow as pa

    keys = list(dict.fromkeys(key for value in values for key in value))
    if len(keys) > _MOST_KEYS:
        raise _NoTypeError(f"its objects have {len(keys)} different keys, and a table makes each a column")
    if not keys:
        return pa.null()  # parquet has no struct without fields
    return pa.struct([(key, _type_of(value.get(key) for value in values)) for key in keys])


def _short(number: int) -> str:
    return str(number) if abs(number) < 10**30 else f"{'-' * (number < 0)}2^{number.bit_length() - 1} or more"


def read_back(table: pa.Table) -> Iterator[Record]:
    """The rows of a table as our reader gives them."""
    from ntkcli.data.formats.columnar import plain_rows

    return (row for batch in table.to_batches() for row in plain_rows(batch))
