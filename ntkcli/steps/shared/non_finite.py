"""Values that are not finite: their rows are named, and left out only where that was asked for.

One rule for features, exact scores, scores of features and evaluation: such a value is never clamped and never becomes
a score or a prediction.
"""

from __future__ import annotations

from collections.abc import Sequence

from ntkcli.choices import OnError
from ntkcli.data import BadRow, Row
from ntkcli.errors import NtkselError, listed
from ntkcli.progress import Progress

FIX = "Give --dtype float32, take the rows out, or give --on-error skip to leave them out."


def name_of(row: Row | BadRow) -> str:
    """ "FILE line 17 (id x3)", for messages."""
    return f"{row.place} (id {row.row_id})" if isinstance(row, Row) else row.place


def settle_non_finite(
    what: str,
    rows: Sequence[Row | BadRow],
    *,
    on_error: OnError,
    progress: Progress,
    began: str = "",
    fix: str = FIX,
) -> None:
    """Name the rows whose values (`what`, a plural) are not finite: as an error or, to leave them out, as a note.

    Raises:
        NtkselError: `on_error` is "fail".
    """
    if not rows:
        return
    text = f"the {what} of {listed([name_of(row) for row in rows])} are not finite{began}"
    if on_error == OnError.FAIL:
        raise NtkselError(f"T{text[1:]}.", fix)
    progress.note(f"left out: {text}")
