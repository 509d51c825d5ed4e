"""How the values of a score are spread, as counts in equal bins for a small picture in the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

import store
from ntkcli.steps.shared.stores import open_store

BINS: Final = 40
"""Of a picture that is one line high: fewer hide a second peak, more do not fit beside two numbers."""
MOST_ROWS: Final = 10_000_000
"""Of a score that is read for a picture alone: a second of reading."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Rows in each of `BINS` equal bins from `low` to `high`; `empty` rows have no value."""

    name: str
    counts: tuple[int, ...]
    low: float
    high: float
    empty: int


def histogram(store_path: str | Path, name: str) -> Histogram | None:
    """Of a finished score of the store by its name (`stage2`); None if it has no finite value or too many rows."""
    return histogram_of(open_store(store_path).get(f"scores/{name}"))


def histogram_of(score: store.Artefact) -> Histogram | None:
    """Of a score; None if it is not finished, has no finite value, or too many rows to be read for a picture."""
    if not score.complete or score.n > MOST_ROWS:
        return None
    values = score.read("score").astype(np.float64)
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    low, high = float(finite.min()), float(finite.max())
    counts, _ = np.histogram(finite, bins=BINS, range=(low, high) if low < high else (low - 0.5, high + 0.5))
    return Histogram(score.name.partition("/")[2], tuple(map(int, counts)), low, high, len(values) - len(finite))
