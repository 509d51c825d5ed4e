"""A JSON file that is one list of objects, element by element. Memory is bounded by one element."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from ntkcli.data.formats.compression import Place, opened, without_bom
from ntkcli.data.formats.jsonl import DECODER, read_lines
from ntkcli.data.formats.records import MAX_FIELD_BYTES, ParsedRecord, Record
from ntkcli.errors import DataError

_CHUNK_BYTES: Final = 1 << 20
_SPACE: Final = " \t\r\n"


def read_json(path: Path) -> Iterator[Record]:
    """Every element of the list. JSON Lines under this name are read as such. DataError where it is no JSON."""
    place = Place("row")
    with opened(path, place) as file:
        text = _Text(path, file)
        first = text.peek()
        if first == "[":
            text.take()
            yield from _elements(path, text, place)
            return
    if first == "{" and _is_lines(path):
        yield from read_lines(path)
    elif first:
        found = "one object" if first == "{" else "neither"
        raise DataError(
            f"{path} holds {found}, and rows are read from a list of objects or JSON Lines.",
            "Write the rows as [{...}, {...}], or one object a line.",
        )


def _elements(path: Path, text: _Text, place: Place) -> Iterator[Record]:
    while (char := text.peek()) != "]":
        if place.number:
            if char != ",":
                raise text.error(place, "no comma or closing bracket behind it" if char else "the list has no end")
            text.take()
            text.peek()
        value = text.value(place)
        place.number += 1
        yield ParsedRecord(path, place.number, value)
    text.take()
    if text.peek():
        raise text.error(place, "there is more behind the list's end")


class _Text:
    """A JSON text with a window on what has been read of it and not yet been used."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._window, self._at, self._ended = "", 0, False
        self._first = True

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            while self._at < len(self._window):
                if self._window[self._at] not in _SPACE:
                    return self._window[self._at]
                self._at += 1
            if not self._more(_CHUNK_BYTES):
                return ""

    def take(self) -> None:
        """Pass the character that was peeked."""
        self._at += 1

    def value(self, place: Place) -> Any:
        """The JSON value that begins here. Reads on, twice as far each time, until it is whole."""
        size = _CHUNK_BYTES
        while True:
            try:
                value, end = DECODER.raw_decode(self._window, self._at)
                # A number at the window's end may go on behind it.
                if end < len(self._window) or isinstance(value, dict | list | str) or not self._more(size):
                    self._at = end
                    return value
            except (ValueError, RecursionError) as error:
                if len(self._window) - self._at > MAX_FIELD_BYTES:
                    raise self.error(place, f"longer than {MAX_FIELD_BYTES // 2**20} MiB") from error
                at_end = not isinstance(error, json.JSONDecodeError) or not self._more(size)
                if at_end:
                    reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply or no JSON"
                    raise self.error(place, reason) from error
            size *= 2

    def error(self, place: Place, why: str) -> DataError:
        """That the list breaks off, and where."""
        return DataError(
            f"{self._path} is not a complete JSON list: after row {place.number} ({why}).", "Fix the file."
        )

    def _more(self, size: int) -> bool:
        """Read on; False at the end of the file."""
        if self._ended:
            return False
        data = self._file.read(size)
        self._ended = not data
        if self._first:
            data, self._first = without_bom(self._path, data), False
        try:
            text = self._decode.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            raise DataError(f"{self._path} is not UTF-8: {error.reason}.", "Convert it with iconv.") from error
        self._window, self._at = self._window[self._at :] + text, 0
        return True


def _is_lines(path: Path) -> bool:
    """Whether the first line that isn't blank is an object by itself, or the file is not JSON anyhow."""
    with opened(path, Place("line")) as file:
        for line in file:
            if line.strip():
                text = without_bom(path, line).strip()
                return text.endswith(b"}") and text != b"{}"
    return False
