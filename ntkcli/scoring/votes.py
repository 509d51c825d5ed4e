"""Scores by votes: each domain row votes for its k nearest pool rows (arXiv 2511.07380, pre-selection).

    r(x_j) = sum_i 1[ j among the k pool rows most similar to a_i ]

Time O(n_domain · n_pool · p), memory O(n_domain · (k + block)). Cosine similarity of the features.
"""

from __future__ import annotations

import numpy as np

from ntkcli.scoring.features import FeatureReader, Wide
from ntkcli.scoring.nearest import nearest_rows
from ntkcli.scoring.similarity import CosineTarget


def vote_scores(pool: FeatureReader, domain: FeatureReader, *, k: int, centre: bool) -> tuple[Wide, Wide]:
    """Votes of each pool row (n,), NaN for rows without features, and its mean similarity (n,), to break ties."""
    found = nearest_rows(CosineTarget.of(pool, domain, centre=centre), pool, k=k)
    votes = np.where(np.isnan(found.mean), np.nan, 0.0)
    np.add.at(votes, found.rows.ravel(), 1.0)
    return votes, found.mean
