"""Templates of task files: text with `{column}` in it, which can name a cell of the row and nothing else."""

from __future__ import annotations

import re
from typing import Any, Final

from ntkcli.data.rows import RAW, RowError, shown, what_is
from store import RowStatus

_PIECE: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Template:
    """A text and its placeholders; `{{` and `}}` are braces. `{a.b}` is the column b within a, `{a.0}` a list's first.

    ValueError if a brace stands alone or a placeholder is empty.
    """

    def __init__(self, text: str) -> None:
        self._pieces: list[tuple[str, str | None]] = []  # text, then a column behind it
        end, plain = 0, ""
        for match in _PIECE.finditer(text):
            plain += text[end : match.start()]
            end = match.end()
            if match[0] in ("{{", "}}"):
                plain += match[0][0]
            elif match[1] is None or not match[1].strip():
                raise ValueError(f"the brace at character {match.start()} belongs to no {{column}}")
            else:
                self._pieces.append((plain, match[1].strip()))
                plain = ""
        self._pieces.append((plain + text[end:], None))

    @property
    def columns(self) -> list[str]:
        """The placeholders, in order."""
        return [column for _, column in self._pieces if column is not None]

    def fill(self, raw: RAW) -> str:
        """The text for a row. RowError if a cell is missing, empty or no text or number."""
        return "".join(text + (cell_text(raw, column) if column else "") for text, column in self._pieces)


def cell_text(raw: RAW, column: str) -> str:
    """A cell as text without white space around it. RowError if it is missing, empty or no text or number."""
    value = cell(raw, column)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError(f"the column {shown(repr(column))} holds {what_is(value)}, not a text or a number")
    text = str(value).strip()
    if not text:
        raise RowError(f"the column {shown(repr(column))} is empty", RowStatus.EMPTY)
    return text


def cell(raw: RAW, column: str) -> Any:
    """The value of a column, or of one within it. RowError if there is none."""
    if column in raw:
        return raw[column]
    value: Any = raw
    for name in column.split("."):
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            raise RowError(f"there is no column {shown(repr(column))}")
    return value


def has_cell(raw: RAW, column: str) -> bool:
    """Whether the row has the column, with anything but null in it."""
    try:
        return cell(raw, column) is not None
    except RowError:
        return False
