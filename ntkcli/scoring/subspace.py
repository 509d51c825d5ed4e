"""Score by cosine inside the subspace of the domain's features (GIST, arXiv 2602.18584).

With A the domain's unit rows (m, p), A = U S V', and V_K the first K right singular vectors:

    s_j = mean_i cos(V_K' a_i, V_K' x_j)

K is given, or the smallest that keeps a share of the energy Σ S². Centred: both sides as for `cosine`.
"""

from __future__ import annotations

import numpy as np

from ntkcli.scoring.features import FeatureReader, Floats, Wide
from ntkcli.scoring.similarity import CosineTarget, unit_rows


def gist_scores(pool: FeatureReader, domain: FeatureReader, *, subspace: float, centre: bool) -> Wide:
    """The mean cosine in the subspace (n,), NaN without features. One pass (two centred); O(n · p · K) time.

    `subspace`: 1 or more is K (at most the domain's rank), less is the share of energy.
    """
    target = CosineTarget.of(pool, domain, centre=centre)
    basis = domain_basis(target.domain, subspace=subspace)
    direction = unit_rows(target.domain @ basis).mean(axis=0)
    scores = np.full(pool.n, np.nan)
    for block in pool.blocks():
        scores[block.rows] = unit_rows(target.prepared(block.unit) @ basis) @ direction
    return scores


def domain_basis(rows: Floats, *, subspace: float) -> Floats:
    """The first K right singular vectors of rows (m, p), as columns (p, K) float32."""
    _, values, right = np.linalg.svd(rows.astype(np.float64), full_matrices=False)
    rank = max(1, int((values > values[0] * max(rows.shape) * np.finfo(np.float32).eps).sum()))
    energy = np.cumsum(values**2)
    k = int(subspace) if subspace >= 1 else int(np.searchsorted(energy, subspace * energy[-1])) + 1
    basis: Floats = right[: min(k, rank)].T.astype(np.float32)
    return basis
