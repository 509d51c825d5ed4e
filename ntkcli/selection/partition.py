"""Parts of a data set that stay together, and their division into sides of given shares. Pure numbers."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Components:
    """Rows 0..n-1 joined into components. Memory: 8 bytes a row."""

    def __init__(self, n: int) -> None:
        self._parent = array("q", range(n))

    def root(self, row: int) -> int:
        """The row that stands for the component of `row`."""
        while self._parent[row] != row:
            self._parent[row] = self._parent[self._parent[row]]
            row = self._parent[row]
        return row

    def join(self, a: int, b: int) -> None:
        """Make the components of two rows one."""
        a, b = self.root(a), self.root(b)
        self._parent[max(a, b)] = min(a, b)

    def same(self, a: int, b: int) -> bool:
        """Whether two rows are in one component."""
        return self.root(a) == self.root(b)

    def labels(self) -> Ints:
        """The component of each row (n,), numbered from 0 by their first rows."""
        roots = np.array(self._parent, dtype=np.int64)
        while not np.array_equal(above := roots[roots], roots):
            roots = above
        return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def assign(counts: Ints, shares: Sequence[float]) -> Ints:
    """The side of each component (c,), none of them empty; components are taken in the order given.

    `counts` (c, strata) are the rows of each component in each stratum; `shares` (sides,) add up to 1. Each component
    goes where it lowers the most the sum over sides and strata of (rows - wanted)² / wanted; the first side wins a tie.

    Raises:
        ValueError: there are fewer components than sides.
    """
    if len(counts) < len(shares):
        raise ValueError(f"{len(counts)} components can't make {len(shares)} sides")
    wanted = np.outer(np.asarray(shares, dtype=np.float64), counts.sum(axis=0))
    have = np.zeros_like(wanted)
    side = np.zeros(len(counts), dtype=np.int64)
    for i, rows in enumerate(counts.astype(np.float64)):
        cost = _change(have, wanted, rows)
        side[i] = int(np.argmin(cost))
        have[side[i]] += rows
    for empty in np.flatnonzero(np.bincount(side, minlength=len(shares)) == 0):
        movable = np.bincount(side, minlength=len(shares))[side] > 1  # the side that it leaves keeps another
        off = np.abs(counts.sum(axis=1) - wanted[empty].sum()) + np.where(movable, 0.0, np.inf)
        side[int(np.argmin(off))] = empty
    return side


def _change(have: NDArray[np.float64], wanted: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """What putting the rows (strata,) on each side adds to the sum (sides,)."""
    off = have - wanted
    grown = np.where(rows > 0, (off + rows) ** 2 - off**2, 0.0)
    found: NDArray[np.float64] = (grown / np.maximum(wanted, 1e-12)).sum(axis=1)
    return found
