"""Scores by votes: each domain row votes for its k nearest pool rows (arXiv 2511.07380, pre-selection).

    r(x_j) = sum_i 1[ j among the k pool rows most similar to a_i ]

Time O(n_domain · n_pool · p), memory O(n_domain · (k + block)). Cosine similarity of the features.
"""

from __future__ import annotations

import numpy as np

from ntkcli.scoring.features import FeatureReader, Wide
from ntkcli.scoring.similarity import unit_rows


def vote_scores(pool: FeatureReader, domain: FeatureReader, *, k: int, centre: bool) -> tuple[Wide, Wide]:
    """Votes of each pool row (n,), NaN for rows without features, and its mean similarity (n,), to break ties."""
    domain_unit = domain.unit_rows()
    if centre:
        pool_mean = pool.mean(raw=False).astype(np.float32)
        domain_unit = unit_rows(domain_unit - pool_mean)
    best = np.full((len(domain_unit), 0), -np.inf, dtype=np.float32)
    best_rows = np.zeros((len(domain_unit), 0), dtype=np.int64)
    votes, similarity = np.full(pool.n, np.nan), np.full(pool.n, np.nan)
    for block in pool.blocks():
        unit = unit_rows(block.unit - pool_mean) if centre else block.unit
        similar = domain_unit @ unit.T
        similarity[block.rows] = similar.mean(axis=0, dtype=np.float64)
        votes[block.rows] = 0.0
        best = np.concatenate([best, similar], axis=1)
        best_rows = np.concatenate([best_rows, np.broadcast_to(block.rows, similar.shape)], axis=1)
        if best.shape[1] > k:
            keep = np.argpartition(-best, k - 1, axis=1)[:, :k]
            best, best_rows = np.take_along_axis(best, keep, 1), np.take_along_axis(best_rows, keep, 1)
    np.add.at(votes, best_rows.ravel(), 1.0)
    return votes, similarity
