"""Bad rows in words: one line that names the first and where the others are, and a line for each of the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ntkcli.data.rows import BadRow, Row, RowError
from ntkcli.errors import DataError

BAD_KEPT: Final = 20
"""Bad rows that are kept with their reasons; the others are counted."""
_LINES_NAMED: Final = 5  # in an error of one line


def unusable(row: Row, error: RowError) -> BadRow:
    """A row that reads well, and that the encoder refuses."""
    return BadRow(row.index, row.line, error.reason, int(error.status), "", row.file, row.unit)


def refusal(bad: Sequence[BadRow], n_bad: int) -> DataError:
    """What `--on-error fail` ends with; `bad` are the first of `n_bad`."""
    fix = "Fix the row, or give --on-error skip to leave such rows out."
    return DataError(f"{_tell(bad, n_bad)}.", fix, details=each(bad, n_bad))


def none_usable(bad: Sequence[BadRow], n_bad: int) -> DataError:
    """That all rows are bad, whatever `--on-error` says."""
    what = f"{bad[0].file} has no row that can be used: {_tell(bad, n_bad, name=False)}."
    return DataError(what, "Fix the rows.", details=each(bad, n_bad))


def each(bad: Sequence[BadRow], n_bad: int) -> list[str]:
    """A line for each of `bad`, and one that counts the rest; none if a single row is bad: the error names it."""
    if n_bad < 2:
        return []
    lines = [f"{row.place}: {row.reason}" for row in bad]
    return lines if n_bad == len(bad) else [*lines, f"and {n_bad - len(bad)} more bad rows"]


def _tell(bad: Sequence[BadRow], n_bad: int, *, name: bool = True) -> str:
    """ "FILE line 17: REASON, and 3 more rows: lines 19, 22, 25": the first bad row, and where the others are."""
    first = bad[0]
    text = f"{first.place if name else f'{first.unit} {first.line}'}: {first.reason}"
    if n_bad == 1:
        return text
    more = bad[1 : 1 + _LINES_NAMED]
    one_file = all(row.file == first.file for row in more)
    lines = ", ".join(str(row.line) if one_file else row.place for row in more)
    lines += ", ..." if n_bad - 1 > len(more) else ""
    rows, unit = ("row", first.unit) if n_bad == 2 else ("rows", f"{first.unit}s")
    return f"{text}, and {n_bad - 1} more {rows}: {f'{unit} ' if one_file else ''}{lines}"
