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
    """Each domain row's `k` nearest pool rows, kept while the pool's cosines come block by block.

    Memory O(n_domain · (k + block)).
    """

    def __init__(self, n_domain: int, *, n: int, k: int) -> None:
        self._k = k
        self._best = np.full((n_domain, 0), -np.inf, dtype=np.float32)
        self._rows: Rows = np.zeros((n_domain, 0), dtype=np.int64)
        self._mean, self._highest = np.full(n, np.nan), np.full(n, np.nan)

    def add(self, rows: Rows, similar: Floats) -> None:
        """Cosines (n_domain, b) of some pool rows (b,)."""
        self._mean[rows] = similar.mean(axis=0, dtype=np.float64)
        self._highest[rows] = similar.max(axis=0)
        best = np.concatenate([self._best, similar], axis=1)
        best_rows = np.concatenate([self._rows, np.broadcast_to(rows, similar.shape)], axis=1)
        if best.shape[1] > self._k:
            keep = np.argpartition(-best, self._k - 1, axis=1)[:, : self._k]
            best, best_rows = np.take_along_axis(best, keep, 1), np.take_along_axis(best_rows, keep, 1)
        self._best, self._rows = best, best_rows

    def found(self) -> Nearest:
        """What is near, best first."""
        order = np.lexsort((self._rows, -self._best), axis=1)
        rows, best = np.take_along_axis(self._rows, order, 1), np.take_along_axis(self._best, order, 1)
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
    position = np.zeros(len(found.rows), dtype=np.int64)
    for turn in range(1, found.rows.shape[1] + 1):
        for i in range(len(found.rows)):
            while position[i] < found.rows.shape[1] and scores[found.rows[i, position[i]]] > 0:
                position[i] += 1
            if position[i] < found.rows.shape[1]:
                scores[found.rows[i, position[i]]] = 1.0 / turn
    return scores


def votes(found: Nearest) -> Wide:
    """How many domain rows have each pool row among their k nearest (arXiv 2511.07380, pre-selection); (n,) float64.

    r(x_j) = sum_i 1[ j among the k pool rows most similar to a_i ]; NaN for rows without features.
    """
    counts = np.where(np.isnan(found.mean), np.nan, 0.0)
    np.add.at(counts, found.rows.ravel(), 1.0)
    return counts
