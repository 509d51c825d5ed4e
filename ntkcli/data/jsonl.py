"""Lines of a JSONL file, plain or gzipped, as JSON objects, with a reason for each line that is none.

Streams: memory is bounded by one line. Must not know schemas.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, NoReturn

from ntkcli.data.rows import RAW, RowError, shown, what_is
from ntkcli.errors import DataError, UsageError

# Far above any row (10^7 tokens), far below memory: a gzipped run of zeros may unpack to gigabytes in one
# line.
MAX_LINE_BYTES: Final = 64 * 2**20
_BOM: Final = b"\xef\xbb\xbf"
_UTF16_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True)
class Record:
    """A line that is not blank: its 1-based number, its bytes, and the object in it or why there is none."""

    line: int
    data: bytes
    raw: RAW | None
    reason: str = ""


def read_records(path: Path) -> Iterator[Record]:
    """Every line that is not blank. UsageError if `path` can't be opened, DataError if it breaks off."""
    line = 0
    try:
        with _opened(path) as file:
            for line, data in enumerate(_lines(file), start=1):
                text = _without_bom(path, data) if line == 1 else data
                if text.strip():
                    yield _record(line, text.rstrip(b"\r\n"))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} is no whole gzip file: it breaks off after line {line} ({error}).",
            "Make or copy the file again.",
        ) from error
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}.") from error


def _opened(path: Path) -> gzip.GzipFile | IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _lines(file: gzip.GzipFile | IO[bytes]) -> Iterator[bytes]:
    """Lines as bytes; of a line over the limit one byte more than the limit, the rest is read and dropped."""
    while data := file.readline(MAX_LINE_BYTES + 1):
        yield data
        while len(data) > MAX_LINE_BYTES and not data.endswith(b"\n"):
            data = file.readline(MAX_LINE_BYTES + 1)


def _without_bom(path: Path, data: bytes) -> bytes:
    if data.startswith(_UTF16_BOMS):
        raise DataError(
            f"{path} is in UTF-16, and rows are read as UTF-8.",
            "Convert it: iconv -f UTF-16 -t UTF-8 IN > OUT",
        )
    return data.removeprefix(_BOM)


def _record(line: int, data: bytes) -> Record:
    try:
        return Record(line, data, _parse(data))
    except RowError as error:
        return Record(line, data, None, error.reason)


def _parse(data: bytes) -> RAW:
    if len(data) > MAX_LINE_BYTES:
        raise RowError(f"longer than {MAX_LINE_BYTES // 2**20} MiB")
    try:
        value = _DECODER.decode(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowError(f"not UTF-8: byte 0x{data[error.start]:02x} at position {error.start}") from error
    except RecursionError as error:
        raise RowError("not readable as JSON: nested too deeply") from error
    except ValueError as error:  # JSONDecodeError, a constant that JSON lacks, an integer of thousands of digits
        raise RowError(_why_not_json(data, error)) from error
    if not isinstance(value, dict):
        raise RowError(f"{what_is(value)}, not an object with columns")
    if reason := _unusable_text(data, value):
        raise RowError(reason)
    return value


def _why_not_json(data: bytes, error: ValueError) -> str:
    if b"\0" in data:
        return f"not text: NUL byte at position {data.index(0)}"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg.removesuffix(' at')} at character {error.pos}"
    return f"not JSON: {error}"


def _unusable_text(data: bytes, raw: RAW) -> str:
    """Which column holds a character that UTF-8 or C strings can't, or "". They come as escapes only."""
    if not any(escape in data for escape in (b"\\u0000", b"\\ud", b"\\uD")):
        return ""
    for column, value in raw.items():
        where = f"the column {shown(repr(column))}"
        for text in _strings([column, value]):
            if "\0" in text:
                return f"{where} holds a NUL character (\\u0000)"
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                found = f"\\u{ord(text[error.start]):04x}"
                return f"{where} holds half a character (the surrogate {found})"
    return ""


def _strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys too; a list of things to do, because a row may be nested deeply."""
    to_do = [value]
    while to_do:
        item = to_do.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            to_do.extend(item)
        elif isinstance(item, dict):
            to_do.extend(item.keys())
            to_do.extend(item.values())


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}")


# json.loads would build a decoder for each line; one for all takes a third off the time.
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)
