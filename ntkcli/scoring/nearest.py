"""Each domain row's nearest pool rows, and the order in which domain rows take turns over them.

Knows features and similarities only. Cosine similarity of the features, centred by the pool's mean on request.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ntkcli.scoring.features import FeatureReader, Floats, Rows, Wide
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


def nearest_rows(target: CosineTarget, pool: FeatureReader, *, k: int) -> Nearest:
    """The `k` nearest pool rows of each domain row in one pass, best first.

    Time O(n_domain · n_pool · p), memory O(n_domain · (k + block)).
    """
    best = np.full((len(target.domain), 0), -np.inf, dtype=np.float32)
    best_rows = np.zeros((len(target.domain), 0), dtype=np.int64)
    mean, highest = np.full(pool.n, np.nan), np.full(pool.n, np.nan)
    for rows, similar in target.blocks(pool):
        mean[rows] = similar.mean(axis=0, dtype=np.float64)
        highest[rows] = similar.max(axis=0)
        best = np.concatenate([best, similar], axis=1)
        best_rows = np.concatenate([best_rows, np.broadcast_to(rows, similar.shape)], axis=1)
        if best.shape[1] > k:
            keep = np.argpartition(-best, k - 1, axis=1)[:, :k]
            best, best_rows = np.take_along_axis(best, keep, 1), np.take_along_axis(best_rows, keep, 1)
    order = np.lexsort((best_rows, -best), axis=1)
    return Nearest(np.take_along_axis(best_rows, order, 1), np.take_along_axis(best, order, 1), mean, highest)


def rds_scores(pool: FeatureReader, domain: FeatureReader, *, k: int, centre: bool) -> tuple[Wide, Wide]:
    """Round-robin over the domain rows as a score (RDS+, arXiv 2503.01807): 1 / the round in which a row is taken.

    In each round every domain row, in order, takes the nearest of its `k` pool rows that nobody has taken. (n,)
    float64; rows that nobody takes get 0, those without features NaN. The second array (n,) breaks ties: the
    highest similarity to a domain row. O(n_domain · n_pool · p) for the similarities, O(n_domain · k) for the rounds.
    """
    found = nearest_rows(CosineTarget.of(pool, domain, centre=centre), pool, k=k)
    scores = np.where(np.isnan(found.highest), np.nan, 0.0)
    position = np.zeros(len(found.rows), dtype=np.int64)
    for turn in range(1, found.rows.shape[1] + 1):
        for i in range(len(found.rows)):
            while position[i] < found.rows.shape[1] and scores[found.rows[i, position[i]]] > 0:
                position[i] += 1
            if position[i] < found.rows.shape[1]:
                scores[found.rows[i, position[i]]] = 1.0 / turn
    return scores, found.highest
