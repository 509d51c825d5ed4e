"""Which test items are in training rows: the same words, or nearly the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ntkcli.data import DataFile, Row
from ntkcli.selection.likeness import Known

NAMED: Final = 3
"""Items that a result names."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """Of the `items` of a test, how many are in the training rows word for word, and how many nearly.

    `places` say where the first of these are.
    """

    items: int
    exact: int
    near: int
    places: tuple[str, ...]


def overlap(domain: DataFile, test: DataFile) -> Overlap:
    """Compare all items of `test` with all rows of `domain`; rows that can't be read are passed over.

    Nearly: near-duplicates, and items whose prompt of eight words or more is a row's. Memory: the domain's words.
    """
    rows = _rows(domain)
    known = Known([words_of(row) for row in rows], [prompt_of(row) for row in rows])
    items = exact = near = 0
    places: list[str] = []
    for item in _rows(test):
        items += 1
        text = words_of(item)
        is_same = known.has(text)
        exact += is_same
        if is_same or known.is_near(text, prompt_of(item)):
            near += not is_same
            places += [item.place] if len(places) < NAMED else []
    return Overlap(items, exact, near, tuple(places))


def words_of(row: Row) -> str:
    """All that a row says: its turns, or the numbers of its tokens."""
    return "\n".join(message.content for message in row.messages) or " ".join(map(str, row.tokens))


def prompt_of(row: Row) -> str | None:
    """What comes before the row's last answer; None if nothing does."""
    if len(row.messages) < 2 or row.messages[-1].role != "assistant":
        return None
    return "\n".join(message.content for message in row.messages[:-1])


def _rows(file: DataFile) -> Sequence[Row]:
    return [row for row in file.rows() if isinstance(row, Row)]
