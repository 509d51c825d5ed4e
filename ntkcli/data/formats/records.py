"""What every reader yields: a row where it stands in its file, decoded when it is first asked for.

So rows that are passed over cost next to nothing. Must not know schemas.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from ntkcli.data.rows import RAW, RowError, shown, what_is

MAX_FIELD_BYTES: Final = 64 * 2**20
"""Far above any row (10^7 tokens), far below memory: a compressed run of zeros may unpack to gigabytes."""


class Record(ABC):
    """A row of the file `path`: its 1-based number among the file's lines or rows (`unit` says which of the two)."""

    __slots__ = ("line", "path")
    unit = "row"

    def __init__(self, path: Path, line: int) -> None:
        self.path, self.line = path, line

    @abstractmethod
    def raw(self) -> RAW:
        """The object in it. RowError if there is none, or its text can't be used."""

    @abstractmethod
    def data(self) -> bytes:
        """Bytes that tell this row from others, for the digest of a row that can't be used."""


class ParsedRecord(Record):
    """A row that its reader had to parse to find it: a value, or the reason why there is none."""

    __slots__ = ("_reason", "_value")

    def __init__(self, path: Path, line: int, value: Any, reason: str = "") -> None:
        super().__init__(path, line)
        self._value, self._reason = value, reason

    def raw(self) -> RAW:
        """The object, checked."""
        if self._reason:
            raise RowError(self._reason)
        return checked(self._value)

    def data(self) -> bytes:
        """The value as JSON."""
        return json.dumps(self._value, ensure_ascii=True, default=str).encode()


ReadFile = Callable[[Path], Iterator[Record]]


def checked(value: Any) -> RAW:
    """The value, if it is an object whose texts a model can be given. RowError naming the column if not."""
    if not isinstance(value, dict):
        raise RowError(f"{what_is(value)}, not an object with columns")
    for column, item in value.items():
        if reason := unusable_text([column, item]):
            raise RowError(f"the column {shown(repr(column))} {reason}")
    return value


def unusable_text(value: Any) -> str:
    """Which character that UTF-8 or C strings can't hold stands in a JSON value, as the rest of a sentence; or ""."""
    for text in _strings(value):
        if "\0" in text:
            return "holds a NUL character (\\u0000)"
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            return f"holds half a character (the surrogate \\u{ord(text[error.start]):04x})"
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
