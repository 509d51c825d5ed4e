"""Rows of stored features for a picture: few enough to read in seconds, however large the pool is.

A chunk is read whole, so rows are drawn from a few parts, drawn by chance, and not from all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli import feature_encoding

Rows = NDArray[np.int64]
READ_BYTES = 256 << 20
"""Of parts, at most, for one sample: a few seconds from a slow disk."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Some rows of the data set (m,) int64 with their unit features (m, p) float32; `of` rows have features here."""

    rows: Rows
    unit: NDArray[np.float32]
    of: int


def vectors_of(features: store.Artefact) -> str:
    """The name of the array that holds the vectors."""
    return "embedding" if "embedding" in features.arrays else "sketch"


def sample(features: store.Artefact, *, most: int, only: Rows | None = None, seed: int = 0) -> Sample:
    """At most `most` rows with features; of the data set's rows `only`, in their order, where these are given."""
    name = vectors_of(features)
    held = [each for each in (name, feature_encoding.SCALE) if each in features.arrays]
    covered: Rows = features.read("row") if "row" in features.arrays else np.arange(features.n)
    good = np.isfinite(features.read("norm"))
    part_bytes = features.part_rows * sum(features.arrays[each].row_bytes for each in held)
    budget = max(1, READ_BYTES // max(1, part_bytes))
    if only is None:
        places = _by_chance(good, features.part_rows, budget, most, seed)
    else:
        places = _in_order(covered, good, only, features.part_rows, budget, most)
    read = {each: features.take(each, places) for each in held}
    unit = (
        feature_encoding.decode(read, name) if len(places) else np.zeros((0, features.arrays[name].tail[0]), np.float32)
    )
    return Sample(covered[places], unit, int(good.sum()))


def _by_chance(good: NDArray[np.bool_], part_rows: int, budget: int, most: int, seed: int) -> Rows:
    draw = np.random.default_rng(seed)
    parts = -(-len(good) // part_rows)
    taken = np.sort(draw.permutation(parts)[:budget])
    inside = np.zeros(len(good), dtype=np.bool_)
    for part in taken.tolist():
        inside[part * part_rows : (part + 1) * part_rows] = True
    places = np.flatnonzero(inside & good)
    return np.sort(draw.choice(places, size=min(most, len(places)), replace=False))


def _in_order(covered: Rows, good: NDArray[np.bool_], only: Rows, part_rows: int, budget: int, most: int) -> Rows:
    """Places of `only`, as long as their parts are within the budget."""
    if not len(covered):
        return np.zeros(0, dtype=np.int64)
    place = np.minimum(np.searchsorted(covered, only), len(covered) - 1)
    place = place[(covered[place] == only) & good[place]]
    parts: set[int] = set()
    found: list[int] = []
    for each in place.tolist():
        part = each // part_rows
        if len(found) == most:
            break
        if part in parts or len(parts) < budget:
            parts.add(part)
            found.append(each)
    return np.array(found, dtype=np.int64)
