"""Score by cosine inside the subspace of the domain's features (GIST, arXiv 2602.18584).

With A the domain's unit rows (m, p), A = U S V', and V_K the first K right singular vectors:

    s_j = mean_i cos(V_K' a_i, V_K' x_j)

K is given, or the smallest that keeps a share of the energy Σ S². Centred: both sides as for `cosine`.
"""

from __future__ import annotations

import numpy as np

from ntkcli.scoring.features import Block, FeatureReader, Floats, Wide
from ntkcli.scoring.similarity import CosineTarget, unit_rows


class SubspaceCosine:
    """`gist` as part of a pass: the mean cosine in the subspace, `scores` (n,), NaN without features.

    `subspace`: 1 or more is K (at most the domain's rank), less is the share of energy. O(n · p · K) time; needs the
    pool's mean when `centre`, which is another pass.
    """

    def __init__(self, pool: FeatureReader, domain: FeatureReader, *, subspace: float, centre: bool) -> None:
        self._target = CosineTarget.of(pool, domain, centre=centre)
        self._basis = domain_basis(self._target.domain, subspace=subspace)
        self._direction = unit_rows(self._target.domain @ self._basis).mean(axis=0)
        self.scores: Wide = np.full(pool.n, np.nan)

    def take_block(self, block: Block) -> None:
        """The scores of these rows."""
        self.scores[block.rows] = unit_rows(self._target.prepared(block.unit) @ self._basis) @ self._direction

    def keep(self, found: None) -> None:
        """Nothing more."""


def domain_basis(rows: Floats, *, subspace: float) -> Floats:
    """The first K right singular vectors of rows (m, p), as columns (p, K) float32."""
    _, values, right = np.linalg.svd(rows.astype(np.float64), full_matrices=False)
    rank = max(1, int((values > values[0] * max(rows.shape) * np.finfo(np.float32).eps).sum()))
    energy = np.cumsum(values**2)
    k = int(subspace) if subspace >= 1 else int(np.searchsorted(energy, subspace * energy[-1])) + 1
    basis: Floats = right[: min(k, rank)].T.astype(np.float32)
    return basis
