"""Rows of a pool to be shown: by their value, with their text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.data import Row
from ntkcli.steps.shared.datasets import data_file
from ntkcli.steps.shared.row_sets import rows_in_order


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A row of a pool, its `value` and its rank by that from 1, and its text: its turns, joined by line feeds."""

    rank: int
    row: int
    row_id: str
    source: str
    value: float
    text: str


def pool_rows(
    stored: store.Store,
    dataset: store.Artefact,
    rows: NDArray[np.int64],
    *,
    values: NDArray[np.float32],
    ranks: NDArray[np.int64],
) -> tuple[PoolRow, ...]:
    """The rows (k,) of a data set in the given order, with their ranks (k,) and the values (n,) of all rows."""
    asked = np.unique(rows)
    found = rows_in_order(data_file(stored, dataset), asked, dataset.read("status"))
    texts = {row.index: text_of(row) for row in found if isinstance(row, Row)}
    ids, sources = dataset.take("row_id", rows), dataset.take("source", rows)
    return tuple(
        PoolRow(
            rank=int(ranks[i]),
            row=row,
            row_id=str(ids[i]),
            source=str(dataset.attrs["sources"][sources[i]]),
            value=float(values[row]),
            text=texts.get(row, ""),
        )
        for i, row in enumerate(rows.tolist())
    )


def text_of(row: Row) -> str:
    """What the row says: its turns, joined by line feeds."""
    return "\n".join(message.text for message in row.messages)
