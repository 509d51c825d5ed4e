"""Tokens of a data set's rows as the store keeps them: written once with the counts, read wherever rows are encoded.

A row is two texts, which Zarr keeps at any length: `ids`, a character per token, and `answers`, a character per bound
of a supervised run. A character takes 1 to 4 bytes of UTF-8, three for most tokens. (Zarr has no ragged integers, and
the bytes of variable length of zarr 3 are outside its specification.) docs/store-format.md has the rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.data import BadRow, Encoded, Encoder, Row, RowError
from ntkcli.data.encode_stream import attempt, encode_whole

VERSION: Final = 1
"""Of how tokens are kept, in the spec of counts that have them."""
IDS, ANSWERS = "ids", "answers"
_SURROGATES: Final = range(0xD800, 0xE000)
"""Code points that no text has: numbers from the first on are moved behind them."""
_MOST: Final = 0x110000 - len(_SURROGATES)  # numbers below it have a code point

Numbers = NDArray[np.int32]


def kept_arrays() -> dict[str, store.ArraySpec]:
    """The arrays that hold tokens."""
    return {IDS: store.ArraySpec(str), ANSWERS: store.ArraySpec(str)}


def as_texts(row: Encoded | None) -> tuple[str, str]:
    """A row's `ids` and `answers`; empty ones for no row, or one whose numbers have no code points."""
    if row is None or max(len(row), int(row.ids.max(initial=0))) >= _MOST:
        return "", ""
    bounds = np.flatnonzero(np.diff(row.supervised, prepend=False, append=False))
    return _text(row.ids), _text(bounds)


def of_texts(ids: str, answers: str) -> Encoded:
    """The row, before any cut, that `as_texts` was given."""
    tokens, bounds = _numbers(ids), _numbers(answers)
    supervised = np.zeros(len(tokens), dtype=np.bool_)
    for start, stop in bounds.reshape(-1, 2).tolist():
        supervised[start:stop] = True
    return Encoded(tokens, supervised, truncated=False)


class KeptTokens:
    """Rows of a data set as tokens: out of the store where it has them (`counts`), else by the encoder.

    One part of the counts is in memory at a time, so rows are best asked for in order. For one thread.
    """

    def __init__(self, counts: store.Artefact | None, encoder: Encoder) -> None:
        self._counts = counts if counts is not None and IDS in counts.arrays else None
        self.encoder = encoder
        self._part, self._ids, self._answers = -1, np.zeros(0, dtype=object), np.zeros(0, dtype=object)

    def whole_rows(self, rows: Iterable[Row | BadRow]) -> Iterator[tuple[Row | BadRow, Encoded | RowError | None]]:
        """Each row with its tokens before any cut, for `Encoder.fit`; an error where it is refused, None for a bad one.

        Without kept tokens, on all cores (`ntkcli.data.encode_stream`).
        """
        if self._counts is None:
            yield from encode_whole(rows, self.encoder)
            return
        for row in rows:
            if isinstance(row, BadRow):
                yield row, None
            else:
                found = self._find(row.index)
                yield row, attempt(self.encoder.whole, row) if found is None else found

    def encoded_rows(self, rows: Iterable[Row | BadRow]) -> Iterator[tuple[Row | BadRow, Encoded | RowError | None]]:
        """The same with rows cut to the encoder's length, as `Encoder.encode` gives them."""
        for row, whole in self.whole_rows(rows):
            yield row, attempt(self.encoder.fit, row, whole) if isinstance(whole, Encoded) else whole

    def _find(self, index: int) -> Encoded | None:
        if self._counts is None:
            return None
        part, at = divmod(index, self._counts.part_rows)
        if part != self._part:
            self._ids, self._answers = (self._counts.read_part(name, part) for name in (IDS, ANSWERS))
            self._part = part
        return of_texts(self._ids[at], self._answers[at]) if self._ids[at] else None


def _text(numbers: NDArray[Any]) -> str:
    """A character for each number."""
    points = numbers.astype("<u4")
    points[points >= _SURROGATES.start] += len(_SURROGATES)
    return points.tobytes().decode("utf-32-le")


def _numbers(text: str) -> Numbers:
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.int32)
    points[points >= _SURROGATES.stop] -= len(_SURROGATES)
    return points
