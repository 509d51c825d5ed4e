"""Lines of a JSONL file as JSON objects, with a reason for each line that is none.

Streams: memory is bounded by one line. Must not know schemas.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, NoReturn

from ntkcli.data.formats.compression import Place, opened, without_bom
from ntkcli.data.formats.records import MAX_FIELD_BYTES, Record, checked
from ntkcli.data.rows import RAW, RowError, what_is

MAX_LINE_BYTES: Final = MAX_FIELD_BYTES


class Line(Record):
    """A line that is not blank."""

    __slots__ = ("_data",)
    unit = "line"

    def __init__(self, path: Path, line: int, data: bytes) -> None:
        super().__init__(path, line)
        self._data = data

    def raw(self) -> RAW:
        """The object in the line."""
        return _parse(self._data)

    def data(self) -> bytes:
        """The line itself, without white space around it."""
        return self._data.strip()


def read_lines(path: Path) -> Iterator[Record]:
    """Every line that is not blank. UsageError if `path` can't be opened, DataError if it breaks off."""
    place = Place("line")
    with opened(path, place) as file:
        for place.number, data in enumerate(_lines(file), start=1):
            text = without_bom(path, data) if place.number == 1 else data
            if text.strip():
                yield Line(path, place.number, text.rstrip(b"\r\n"))


def parse_json(text: str) -> Any:
    """The value of a JSON text. ValueError (JSONDecodeError, NaN, thousands of digits) or RecursionError."""
    return DECODER.decode(text)


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Lines as bytes; of a line over the limit one byte more than the limit, the rest is read and dropped."""
    while data := file.readline(MAX_LINE_BYTES + 1):
        yield data
        while len(data) > MAX_LINE_BYTES and not data.endswith(b"\n"):
            data = file.readline(MAX_LINE_BYTES + 1)


def _parse(data: bytes) -> RAW:
    if len(data) > MAX_LINE_BYTES:
        raise RowError(f"longer than {MAX_LINE_BYTES // 2**20} MiB")
    try:
        value = parse_json(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowError(f"not UTF-8: byte 0x{data[error.start]:02x} at position {error.start}") from error
    except RecursionError as error:
        raise RowError("not readable as JSON: nested too deeply") from error
    except ValueError as error:  # JSONDecodeError, a constant that JSON lacks, an integer of thousands of digits
        raise RowError(_why_not_json(data, error)) from error
    if not isinstance(value, dict):
        raise RowError(f"{what_is(value)}, not an object with columns")
    # Characters that can't be used come as escapes only.
    escaped = any(escape in data for escape in (b"\\u0000", b"\\ud", b"\\uD"))
    return checked(value) if escaped else value


def _why_not_json(data: bytes, error: ValueError) -> str:
    if b"\0" in data:
        return f"not text: NUL byte at position {data.index(0)}"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg.removesuffix(' at')} at character {error.pos}"
    return f"not JSON: {error}"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}")


# json.loads would build a decoder for each line; one for all takes a third off the time.
DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)
