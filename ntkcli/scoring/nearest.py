"""Scores by cosines with every domain row: `max`, and by each domain row's nearest pool rows `votes` and `rds`.

Knows features and similarities only. Cosine similarity of the features, centred by the pool's mean on request. One
pass: time O(n_domain · n_pool · p).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from ntkcli.scoring.features import Block, FeatureReader, Floats, Rows, Wide
from ntkcli.scoring.similarity import CosineTarget

LEAST_ROOM = 1024
"""Of a list, beyond its k: for all rows of a block."""


@dataclass(frozen=True, slots=True)
class Nearest:
    """For each domain row its nearest pool rows, best first: `rows` (n_domain, k) int64, `similarity` float32.

    `mean` and `highest` (n,) float64 are each pool row's similarity to all domain rows; NaN = no features.
    """

    rows: Rows
    similarity: Floats
    mean: Wide
    highest: Wide


class NearestRows:
    """Each domain row's `k` nearest pool rows, kept while the pool's cosines come block by block, in the pool's order.

    Of equal cosines the earlier rows are kept. A block adds to the lists only what is above each list's k-th highest
    cosine as it was at the last cut: of rows in no order k · log(n / k) in all. Memory: 8 bytes for n_domain · 1.5 k.
    """

    def __init__(self, n_domain: int, *, n: int, k: int) -> None:
        self._k, self._room = k, k + max(LEAST_ROOM, k // 2)
        self._best = np.empty((n_domain, self._room), dtype=np.float32)
        self._rows = np.empty((n_domain, self._room), dtype=np.uint32)  # a store of more rows has no place on a disk
        self._filled = np.zeros(n_domain, dtype=np.int64)
        self._least = np.full(n_domain, -np.inf, dtype=np.float32)
        self._mean, self._highest = np.full(n, np.nan), np.full(n, np.nan)

    def add(self, rows: Rows, similar: Floats) -> None:
        """Cosines (n_domain, b) of some pool rows (b,), ascending."""
        self._mean[rows] = similar.mean(axis=0, dtype=np.float64)
        self._highest[rows] = similar.max(axis=0)
        for low in range(0, len(rows), LEAST_ROOM):
            self._add(rows[low : low + LEAST_ROOM], similar[:, low : low + LEAST_ROOM])

    def _add(self, rows: Rows, similar: Floats) -> None:
        """Rows that every list has room for, once it is cut."""
        which, column = np.nonzero(similar > self._least[:, None])
        count = np.bincount(which, minlength=len(self._filled))
        for i in np.flatnonzero(self._filled + count > self._room).tolist():
            self._cut(i)
        first = np.cumsum(count) - count
        at = self._filled[which] + np.arange(len(which)) - first[which]
        self._best[which, at] = similar[which, column]
        self._rows[which, at] = rows[column]
        self._filled += count

    def _cut(self, i: int) -> None:
        """Leave the k nearest of domain row `i`, in the order of the pool."""
        best, k = self._best[i, : self._filled[i]], self._k
        if len(best) <= k:
            return
        least = np.partition(best, len(best) - k)[len(best) - k]
        keep = best > least
        keep[np.flatnonzero(best == least)[: k - int(keep.sum())]] = True
        self._best[i, :k], self._rows[i, :k] = best[keep], self._rows[i, : len(best)][keep]
        self._filled[i], self._least[i] = k, least

    def found(self) -> Nearest:
        """What is near, best first."""
        for i in range(len(self._filled)):
            self._cut(i)
        k = int(self._filled.min(initial=self._k))
        rows, best = np.empty((len(self._filled), k), dtype=np.int64), np.empty((len(self._filled), k), np.float32)
        for i in range(len(rows)):
            order = np.argsort(-self._best[i, :k], kind="stable")  # rows ascend, so ties go to the earlier one
            rows[i], best[i] = self._rows[i, order], self._best[i, order]
        return Nearest(rows, best, self._mean, self._highest)


def nearest_rows(target: CosineTarget, pool: FeatureReader, *, k: int) -> Nearest:
    """The `k` nearest pool rows of each domain row in one pass, best first. Time O(n_domain · n_pool · p)."""
    nearest = NearestRows(len(target.domain), n=pool.n, k=k)
    for rows, similar in target.blocks(pool):
        nearest.add(rows, similar)
    return nearest.found()


class Cosines:
    """The cosines with all rows of a domain as part of a pass: the highest (n,) and, with `k`, the nearest rows."""

    def __init__(self, pool: FeatureReader, domain: FeatureReader, *, k: int | None, centre: bool) -> None:
        self._target = CosineTarget.of(pool, domain, centre=centre)
        self.highest: Wide = np.full(pool.n, np.nan)
        self._nearest = None if k is None else NearestRows(len(self._target.domain), n=pool.n, k=k)

    def take_block(self, block: Block) -> tuple[Rows, Floats] | None:
        """The cosines, where the nearest rows are wanted."""
        similar = self._target.domain @ self._target.prepared(block.unit).T
        self.highest[block.rows] = similar.max(axis=0)
        return None if self._nearest is None else (block.rows, similar)

    def keep(self, found: tuple[Rows, Floats] | None) -> None:
        """The nearest among these."""
        if self._nearest is not None and found is not None:
            self._nearest.add(*found)

    @functools.cached_property
    def nearest(self) -> Nearest:
        """After the pass, with `k`."""
        if self._nearest is None:
            raise ValueError("no k was given")
        return self._nearest.found()


def turns(found: Nearest) -> Wide:
    """Round-robin over the domain rows as a score (RDS+, arXiv 2503.01807): 1 / the round in which a row is taken.

    In each round every domain row, in order, takes the nearest of its k pool rows that nobody has taken. (n,) float64;
    rows that nobody takes get 0, those without features NaN. O(n_domain · k).
    """
    scores = np.where(np.isnan(found.highest), np.nan, 0.0)
    n_domain, k = found.rows.shape
    rows, is_taken = np.ascontiguousarray(found.rows).data, bytearray(len(scores))
    position = [0] * n_domain
    for turn in range(1, k + 1):
        for i in range(n_domain):
            at = position[i]
            while at < k and is_taken[rows[i, at]]:
                at += 1
            if at < k:
                is_taken[row := rows[i, at]] = 1
                scores[row] = 1.0 / turn
            position[i] = at
    return scores


def votes(found: Nearest) -> Wide:
    """How many domain rows have each pool row among their k nearest (arXiv 2511.07380, pre-selection); (n,) float64.

    r(x_j) = sum_i 1[ j among the k pool rows most similar to a_i ]; NaN for rows without features.
    """
    counts = np.where(np.isnan(found.mean), np.nan, 0.0)
    np.add.at(counts, found.rows.ravel(), 1.0)
    return counts
