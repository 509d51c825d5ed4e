"""What a section of a report is made of, without a word of HTML: the two writers show the same blocks.

Texts of rows and names come in as they are in the data; the writers escape them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Value = str | float | int | None


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One paragraph of plain text."""

    text: str


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that is missing, left out or damaged, and the command that makes it ("" = none does).

    `kind` is "missing", "damaged" or "sampled".
    """

    kind: str
    text: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class Stat:
    """One large number with its label and a remark."""

    label: str
    value: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Stats:
    """The few numbers that a reader looks for first."""

    items: tuple[Stat, ...]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: `format` as Python's `format` takes it for its numbers; `rows_text` holds text of rows."""

    name: str
    format: str = ""
    numeric: bool = False
    rows_text: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table. `explore` gives it sorting and search, `filters` names the columns with a list to choose from."""

    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    explore: bool = False
    filters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture: `figure` as plotly's JSON, a sentence that says what is in it, and the numbers as a table."""

    id: str
    title: str
    summary: str
    figure: dict[str, Any]
    table: Table | None
    height: int = 360


@dataclass(frozen=True, slots=True)
class Panel:
    """A pool row with the rows of the domain that are nearest to it: (label, similarity, text)."""

    title: str
    text: str
    nearest: tuple[tuple[str, float, str], ...]


@dataclass(frozen=True, slots=True)
class Panels:
    """Several panels side by side."""

    items: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Commands:
    """Command lines to copy."""

    lines: tuple[str, ...]


Block = Paragraph | Notice | Stats | Table | Plot | Panels | Commands


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the report."""

    id: str
    title: str
    blocks: tuple[Block, ...]


def shown(value: Value, column: Column) -> str:
    """A cell as text; an unknown value as a dash."""
    if value is None or value != value:  # noqa: PLR0124  # NaN
        return "—"
    return format(value, column.format) if column.format and not isinstance(value, str) else str(value)
