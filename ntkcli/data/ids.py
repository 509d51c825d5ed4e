"""Lists of row ids: a line each, or in the rows of a data file of any format. Must not know what the ids are of."""

from __future__ import annotations

import contextlib
import csv
import glob
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ntkcli.data.columns import renamed
from ntkcli.data.find_source import find_source
from ntkcli.data.formats.compression import COMPRESSED, Place, first_bytes, opened, packing_of, without_bom
from ntkcli.data.formats.records import Record
from ntkcli.data.places import reader_of
from ntkcli.data.problems import BAD_KEPT
from ntkcli.data.rows import RAW, RowError, own_id, what_is
from ntkcli.data.schemas import detect, known_columns, read_row
from ntkcli.data.stdin import STDIN
from ntkcli.errors import DataError, UsageError
from ntkcli.paths import home

ID_COLUMNS: Final = ("id", "row_id")
_MARKS: Final = {b"PAR1": "parquet", b"ARROW1": "arrow"}
"""First bytes of formats that are not text, whatever the file's name."""
_HEAD_BYTES: Final = 1 << 16  # of a header


@dataclass(frozen=True, slots=True)
class ListedId:
    """An id as a file lists it; `forms` are the ids that it may stand for, the likeliest first.

    Forms: as it is written, without its quotes; of a row its own id, then the one of its content. `maybe_header`: it
    stands where a header would, so a reader passes over it if it names nothing.
    """

    forms: tuple[str, ...]
    maybe_header: bool = False


def listed_ids(reference: str, *, option: str, columns: Mapping[str, str]) -> Iterator[ListedId]:
    """The ids that a file, folder or glob lists, in its order. `columns` are those that the pool was read with.

    Raises:
        UsageError: there is no such file, or its rows have neither an id nor content.
        DataError: a row can't be read, so what it names is not known.
    """
    path = Path(home(reference))
    if reference == STDIN or not (path.exists() or glob.has_magic(str(path))):
        raise UsageError(f"{option} {reference}: no such file.", "Give a file of ids, a line each, or a data file.")
    if path.is_file() and (reader_of(path) is None or _is_one_column(path)):
        yield from _lines(path, option, is_table=reader_of(path) is not None)
        return
    bad: list[str] = []
    for record in find_source(str(path)).records():
        try:
            yield from _of_record(record, columns)
        except RowError as error:
            bad.append(f"{record.path} {record.unit} {record.line}: {error.reason}")
            if len(bad) == BAD_KEPT:
                break
    if bad:
        raise DataError(
            f"{option} {reference}: it has rows that can't be read, so what they name is not known ({bad[0]}).",
            "Fix them, or give the ids alone, a line each.",
            details=bad if len(bad) > 1 else (),
        )


def _of_record(record: Record, columns: Mapping[str, str]) -> Iterator[ListedId]:
    value = _value(record)
    yield _of_row(record, value, columns) if isinstance(value, dict) else ListedId((str(value),))


def _value(record: Record) -> Any:
    """The row's object; of JSON also a string or a number by itself."""
    try:
        return record.raw()
    except RowError:
        try:
            value = json.loads(record.data())
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, str | int):
            return value
        raise


def _of_row(record: Record, raw: RAW, columns: Mapping[str, str]) -> ListedId:
    """By its own id, under the pool's name for the column or the usual one; and by its content."""
    own = own_id(renamed(raw, columns)) or own_id(raw)
    forms = [] if own is None else [own]
    for names in (columns, {}) if columns else ({},):
        if (schema := detect(raw, names)) is None:
            continue
        try:
            forms.append(read_row(schema, _without_id(raw, names), index=0, line=record.line, columns=names).row_id)
        except RowError:
            if own is None:
                raise
    if not forms and len(raw) == 1:  # a column of ids under a name of its own
        (name, cell), *_ = raw.items()
        if isinstance(cell, bool) or not isinstance(cell, str | int) or cell == "":
            raise RowError(f"the column {name!r} holds {what_is(cell)}, not an id")
        forms = [str(cell)]
    if not forms:
        raise RowError(f"it has neither an id ({' or '.join(ID_COLUMNS)}) nor columns that a row is read from")
    return ListedId(tuple(dict.fromkeys(forms)))


def _is_one_column(path: Path) -> bool:
    """Whether it is a delimited file of one column that holds no rows' content: a list of ids, a line each."""
    reader = reader_of(path)
    if reader is None or reader.name not in ("CSV", "TSV"):
        return False
    packing = path.suffix.lower() if path.suffix.lower() in COMPRESSED else ""
    head = first_bytes(path, packing, _HEAD_BYTES).decode("utf-8-sig", "replace").lstrip("\r\n")
    header = (
        next(csv.reader([head.splitlines()[0]], delimiter="," if reader.name == "CSV" else "\t"), []) if head else []
    )
    return len(header) == 1 and header[0].strip() not in known_columns() - set(ID_COLUMNS)


def _without_id(raw: RAW, columns: Mapping[str, str]) -> RAW:
    own = {columns.get(name, name) for name in ID_COLUMNS}
    return type(raw)({name: value for name, value in raw.items() if name not in own})


def _lines(path: Path, option: str, *, is_table: bool) -> Iterator[ListedId]:
    """A line each, quoted or not; JSON and tables under another name are read as what they are."""
    head = first_bytes(path, "", 8)
    if kind := next((kind for mark, kind in _MARKS.items() if head.startswith(mark)), None):
        raise UsageError(f"{option} {path} is a {kind} file under another name.", f"Rename it to end in .{kind}.")
    packing = packing_of(head)
    if packing and path.suffix.lower() != packing:
        raise UsageError(f"{option} {path} is packed.", f"Rename it to end in {packing}.")
    if (start := first_bytes(path, packing, 64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]) in (b"{", b"["):
        raise UsageError(
            f"{option} {path} holds JSON, and its name doesn't say so (it begins with {start.decode()}).",
            "Rename it to end in .jsonl or .json, or give the ids alone, a line each.",
        )
    place = Place("line")
    with opened(path, place) as file:
        without_bom(path, file.peek(2)[:2] if isinstance(file, io.BufferedReader) else b"")
        text = io.TextIOWrapper(file, encoding="utf-8-sig")
        try:
            for place.number, line in enumerate(text, start=1):
                if "\0" in line:
                    raise DataError(f"{path} line {place.number} is not text: NUL byte.", "Give ids, a line each.")
                if forms := _forms(line.removesuffix("\n")):
                    yield ListedId(forms, maybe_header=place.number == 1 and (is_table or forms[0] in ID_COLUMNS))
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8: {error.reason}.", "Convert it with iconv.") from error


def _forms(line: str) -> tuple[str, ...]:
    """The line without white space around it, as it is, and without its quotes."""
    text = line.strip()
    forms = [text, line]
    if len(text) > 1 and text[0] == text[-1] == '"':
        forms += [cells[0] for cells in csv.reader([text]) if len(cells) == 1]
        with contextlib.suppress(ValueError):
            forms.append(str(json.loads(text)))
    elif len(text) > 1 and text[0] == text[-1] == "'":
        forms.append(text[1:-1])
    return tuple(dict.fromkeys(form for form in forms if form)) if text else ()
