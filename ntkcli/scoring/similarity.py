"""Scores by similarity to the domain: the paper's mean kernel value, and the mean cosine.

With x a pool row's feature, a_i the domain rows', u(x) = x/|x| and m the pool's mean feature:

    mean             s_j = <mean_i a_i, x_j>                        (arXiv 2511.07380, section 4)
    mean, centred    s_j = <mean_i a_i - m, x_j - m>                HΘH of kernel PCA
    cosine           s_j = mean_i <u(a_i), u(x_j)>
    cosine, centred  s_j = mean_i cos(u(a_i) - m, u(x_j) - m)       m of the unit features

Centring takes out the component that all gradients share, which otherwise outweighs what tells rows apart.
One pass over the pool (two when centred), one block in memory; results (n,) float64, NaN for rows without features.
"""

from __future__ import annotations

import numpy as np

from ntkcli.scoring.features import FeatureReader, Floats, Wide


def mean_scores(pool: FeatureReader, domain: FeatureReader, *, centre: bool) -> Wide:
    """The mean kernel value with the domain's rows, in units of |x|·|a|."""
    target = domain.mean(raw=True)
    offset = 0.0
    if centre:
        pool_mean = pool.mean(raw=True)
        target -= pool_mean
        offset = float(pool_mean @ target)
    return _project(pool, target, offset=offset, raw=True)


def cosine_scores(pool: FeatureReader, domain: FeatureReader, *, centre: bool) -> Wide:
    """The mean cosine with the domain's rows, in [-1, 1] up to the sketch's error."""
    if not centre:
        return _project(pool, domain.mean(raw=False), offset=0.0, raw=False)
    pool_mean = pool.mean(raw=False).astype(np.float32)
    target: Floats = unit_rows(domain.unit_rows() - pool_mean).mean(axis=0)
    scores = np.full(pool.n, np.nan)
    for block in pool.blocks():
        scores[block.rows] = unit_rows(block.unit - pool_mean) @ target
    return scores


def unit_rows(rows: Floats) -> Floats:
    """Rows (b, p) float32 divided by their length; a zero row stays zero."""
    length = np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)
    length[length == 0] = 1
    scaled: Floats = rows / length
    return scaled


def _project(pool: FeatureReader, target: Wide, *, offset: float, raw: bool) -> Wide:
    length = float(np.linalg.norm(target)) or 1.0
    direction = (target / length).astype(np.float32)  # unit, so that float32 holds raw features of any size
    scores = np.full(pool.n, np.nan)
    for block in pool.blocks():
        dots = (block.unit @ direction).astype(np.float64) * length
        scores[block.rows] = (dots * block.norm if raw else dots) - offset
    return scores
