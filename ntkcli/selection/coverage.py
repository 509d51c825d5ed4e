"""Select by coverage: a concave sum over domain rows, so that no domain row is served many times before the others.

    F(S) = Σ_i ( Σ_{j in S} (s_ij - min_j s_ij) )^e        s_ij the cosine of domain row i and candidate j

Exponent e = 1 is the order of the mean cosine; the smaller e, the more evenly the domain rows are served.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ntkcli.progress import shown
from ntkcli.selection.chooser import Chooser, Ints

BATCH, BLOCK = 256, 4096
"""Stale gains that are computed again together; and gains of the first pass."""


def choose_by_coverage(chooser: Chooser, similar: NDArray[np.float32], *, exponent: float) -> None:
    """Fill the chooser greedily by F; `similar` (n, n_domain) float32 are the cosines and are changed in place.

    Exact lazy greedy: F is submodular, so a gain computed earlier bounds the present one from above. Memory
    O(n · n_domain); time O(n_domain) for each gain, of which a few dozen a candidate are computed in practice.
    """
    similar -= similar.min(axis=0)
    covered = similar[chooser.taken].sum(axis=0, dtype=np.float64)
    bound = np.full(len(similar), -np.inf)
    fresh_at = np.full(len(similar), len(chooser.taken), dtype=np.int64)
    with shown("gains of all rows", total=len(similar), unit="rows") as advance:
        for start in range(0, len(similar), BLOCK):
            some = similar[start : start + BLOCK]
            bound[start : start + BLOCK] = _gains(some, covered, exponent)
            advance(len(some))
    while not chooser.done:
        row = _next(chooser, similar, covered, bound, fresh_at, exponent)
        if chooser.take(row, float(bound[row])):
            covered += similar[row]


def _next(
    chooser: Chooser,
    similar: NDArray[np.float32],
    covered: NDArray[np.float64],
    bound: NDArray[np.float64],
    fresh_at: Ints,
    exponent: float,
) -> int:
    """The open row of the highest present gain, which is then its `bound`."""
    now = len(chooser.taken)
    while True:
        row = chooser.best(bound)
        if fresh_at[row] == now:
            return row
        open_rows = np.flatnonzero(chooser.open & (fresh_at != now))
        if len(open_rows) > BATCH:
            open_rows = np.sort(open_rows[np.argpartition(-bound[open_rows], BATCH)[:BATCH]])
        bound[open_rows] = _gains(similar[open_rows], covered, exponent)
        fresh_at[open_rows] = now


def _gains(similar: NDArray[np.float32], covered: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    if exponent == 1:
        plain: NDArray[np.float64] = similar.sum(axis=1, dtype=np.float64)
        return plain
    gains: NDArray[np.float64] = (np.power(covered + similar, exponent) - np.power(covered, exponent)).sum(axis=1)
    return gains
