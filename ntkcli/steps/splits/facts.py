"""What a division needs to know of every row of a file, a row at a time. Memory: some 150 bytes a row."""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ntkcli.data import Row
from ntkcli.data.columns import lookup
from ntkcli.data.rows import RAW, column_names, content_digest
from ntkcli.errors import UsageError
from ntkcli.selection.alike import Alike
from ntkcli.selection.kept import Digests
from ntkcli.selection.partition import Components
from ntkcli.steps.splits.overlap import prompt_of, words_of

Ints = NDArray[np.int64]
DIGEST_BYTES = 32


@dataclass(slots=True)
class Answers:
    """The right answers of rows with choices: their texts where all rows have the same choices, else their letters."""

    choices: frozenset[str] | None = None
    all_have: bool = True
    same: bool = True
    texts: list[str] = field(default_factory=list)
    text: array[int] = field(default_factory=lambda: array("i"))
    letter: array[int] = field(default_factory=lambda: array("i"))

    def add(self, row: Row) -> None:
        """Take in the next row."""
        self.all_have = self.all_have and bool(row.choices) and row.answer is not None
        if not self.all_have or row.answer is None:
            return
        choices = frozenset(row.choices)
        self.choices = choices if self.choices is None else self.choices
        self.same = self.same and choices == self.choices
        self.letter.append(row.answer)
        if self.same:
            answer = row.choices[row.answer]
            if answer not in self.texts:
                self.texts.append(answer)
            self.text.append(self.texts.index(answer))

    def found(self) -> tuple[list[str], Ints] | None:
        """The answers, sorted, and which of them each row has (n,); None unless every row has one, and they differ."""
        if not self.all_have or not self.letter:
            return None
        codes = np.array(self.text if self.same else self.letter, dtype=np.int64)
        names = self.texts if self.same else [chr(ord("A") + i) for i in range(int(codes.max()) + 1)]
        used = sorted({names[code] for code in np.unique(codes)})
        if len(used) < 2:
            return None
        place = np.array([used.index(name) if name in used else -1 for name in names], dtype=np.int64)
        return used, place[codes]


class Facts:
    """Of rows 0, 1, ...: what they say, their digests, their answers and their groups by the column `by`."""

    def __init__(self, by: str | None) -> None:
        self._by = by
        self._alike, self._groups, self._digests = Alike(), Digests(), bytearray()
        self._answers = Answers()
        self._first: RAW = {}

    def add(self, row: Row) -> None:
        """Take in the next row."""
        self._first = self._first or row.raw
        self._alike.add(words_of(row), prompt_of(row))
        self._digests += bytes.fromhex(content_digest(row))
        self._answers.add(row)
        if self._by is not None:
            is_there, value = lookup(row.raw, self._by)
            if not is_there or value is None or value == "":
                self._groups.append(None)
            else:  # 7 and "7" are one group
                self._groups.append(value if isinstance(value, str) else json.dumps(value, sort_keys=True))

    def __len__(self) -> int:
        return len(self._alike)

    @property
    def digests(self) -> NDArray[np.uint8]:
        """Of the content of each row (n, 32)."""
        return np.frombuffer(bytes(self._digests), dtype=np.uint8).reshape(-1, DIGEST_BYTES)

    def answers(self) -> tuple[Sequence[str], Ints] | None:
        """As `Answers.found`."""
        return self._answers.found()

    def parts(self) -> tuple[Ints, int, int | None]:
        """The part of each row (n,), how many rows say what another says, and how many values the column `by` has."""
        found = Components(len(self))
        self._alike.join(found)
        parts = found.labels()
        sizes = np.bincount(parts)
        duplicates = int(sizes[sizes > 1].sum())
        if self._by is None:
            return parts, duplicates, None
        if not self._groups.given:
            raise UsageError(
                f"--by {self._by}: no row has that column.", f"The first has: {column_names(self._first)}."
            )
        rows, firsts = self._groups.repeated()
        for row, first in zip(rows.tolist(), firsts.tolist(), strict=True):
            found.join(row, first)
        return found.labels(), duplicates, self._groups.given - len(rows)
