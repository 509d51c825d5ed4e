"""The ids of a data set's rows without holding all of them: in order, by number, and the numbers of some ids."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import overload

import store


class RowIds(Sequence[str]):
    """The ids of all rows as a sequence; the part of the data set that was read last is in memory.

    Made for rows in about their order; at random places each look reads a part.
    """

    def __init__(self, dataset: store.Artefact) -> None:
        self._dataset = dataset
        self._start, self._stop, self._held = 0, 0, list[str]()

    def __len__(self) -> int:
        return self._dataset.n

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> list[str]: ...

    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        if not self._start <= row < self._stop:
            if not -len(self) <= row < len(self):
                raise IndexError(f"row {row} of {self._dataset.name}, which has {len(self)}")
            part = (row % len(self)) // self._dataset.part_rows
            self._start, self._stop = self._dataset.part_bounds(part)
            self._held = self._dataset.read_part("row_id", part).tolist()
        return self._held[row % len(self) - self._start]


def rows_of_ids(dataset: store.Artefact, wanted: Collection[str]) -> dict[str, int]:
    """The rows of those of the ids that the data set has: of an id that stands twice the last; "" names none."""
    found: dict[str, int] = {}
    if not wanted:
        return found
    for rows, arrays in dataset.blocks(["row_id"]):
        found.update((row_id, rows.start + i) for i, row_id in enumerate(arrays["row_id"].tolist()) if row_id in wanted)
    found.pop("", None)
    return found


def first_row_of(dataset: store.Artefact, row_id: str) -> int | None:
    """The first row with this id, if there is one."""
    for part in range(dataset.n_parts):
        ids = dataset.read_part("row_id", part).tolist()
        if row_id in ids:
            return dataset.part_bounds(part)[0] + int(ids.index(row_id))
    return None
