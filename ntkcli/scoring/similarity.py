"""Scores by similarity to the domain: the paper's mean kernel value, the mean cosine and the highest cosine.

With x a pool row's feature, a_i the domain rows', u(x) = x/|x| and m the pool's mean feature:

    mean             s_j = <mean_i a_i, x_j>                        (arXiv 2511.07380, section 4)
    mean, centred    s_j = <mean_i a_i - m, x_j - m>                HΘH of kernel PCA
    cosine           s_j = mean_i <u(a_i), u(x_j)>
    cosine, centred  s_j = mean_i cos(u(a_i) - m, u(x_j) - m)       m of the unit features
    max              s_j = max_i of the same cosines

Centring takes out the component that all gradients share, which otherwise outweighs what tells rows apart.
One pass over the pool (two when centred), one block in memory. `mean` and `cosine` take groups of domain rows and
give one column each; results (n,) or (n, groups) float64, NaN for rows without features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ntkcli.scoring.features import FeatureReader, Floats, Rows, Wide


def mean_scores(pool: FeatureReader, groups: Sequence[FeatureReader], *, centre: bool) -> Wide:
    """The mean kernel value with each group's rows (n, groups), in units of |x|·|a|."""
    targets = [group.mean(raw=True) for group in groups]
    offsets = [0.0] * len(groups)
    if centre:
        pool_mean = pool.mean(raw=True)
        targets = [target - pool_mean for target in targets]
        offsets = [float(pool_mean @ target) for target in targets]
    return _project(pool, targets, offsets=offsets, raw=True)


def cosine_scores(pool: FeatureReader, groups: Sequence[FeatureReader], *, centre: bool) -> Wide:
    """The mean cosine with each group's rows (n, groups), in [-1, 1] up to the sketch's error."""
    if not centre:
        return _project(pool, [group.mean(raw=False) for group in groups], offsets=[0.0] * len(groups), raw=False)
    pool_mean = pool.mean(raw=False).astype(np.float32)
    targets = [unit_rows(group.unit_rows() - pool_mean).mean(axis=0) for group in groups]
    directions = np.stack([*targets, pool_mean], axis=1)
    at_mean = pool_mean.astype(np.float64) @ directions
    scores = np.full((pool.n, len(groups)), np.nan)
    for block in pool.blocks(cached=True):
        # <x - m, t> / |x - m| from products with x alone: nothing of the block's size is written.
        products = (block.unit @ directions).astype(np.float64)
        squares = np.einsum("ij,ij->i", block.unit, block.unit).astype(np.float64)
        length = np.sqrt(np.maximum(squares - 2 * products[:, -1] + at_mean[-1], np.finfo(np.float32).tiny))
        scores[block.rows] = (products[:, :-1] - at_mean[:-1]) / length[:, None]
    return scores


def max_scores(pool: FeatureReader, domain: FeatureReader, *, centre: bool) -> Wide:
    """The highest cosine with any domain row (n,). Time O(n_domain · n_pool · p), memory O(n_domain · block)."""
    scores = np.full(pool.n, np.nan)
    for rows, similar in CosineTarget.of(pool, domain, centre=centre).blocks(pool):
        scores[rows] = similar.max(axis=0)
    return scores


@dataclass(frozen=True, slots=True)
class CosineTarget:
    """The domain's unit rows `domain` (n_domain, p) float32, and the pool's mean that both sides lose, or None."""

    domain: Floats
    pool_mean: Floats | None

    @classmethod
    def of(cls, pool: FeatureReader, domain: FeatureReader, *, centre: bool) -> Self:
        """Both sides ready to compare; a pass over the pool when `centre`."""
        return cls.of_rows(pool, domain.unit_rows(), centre=centre)

    @classmethod
    def of_rows(cls, pool: FeatureReader, unit: Floats, *, centre: bool) -> Self:
        """The same for a domain that is at hand as unit rows (n_domain, p)."""
        if not centre:
            return cls(unit, None)
        pool_mean = pool.mean(raw=False).astype(np.float32)
        return cls(unit_rows(unit - pool_mean), pool_mean)

    def prepared(self, unit: Floats) -> Floats:
        """Pool features (b, p) as rows whose dot products with the domain's are the cosines."""
        return unit if self.pool_mean is None else unit_rows(unit - self.pool_mean)

    def blocks(self, pool: FeatureReader) -> Iterator[tuple[Rows, Floats]]:
        """The pool's rows (b,) with their cosines (n_domain, b), block by block."""
        for block in pool.blocks():
            yield block.rows, self.domain @ self.prepared(block.unit).T


def unit_rows(rows: Floats) -> Floats:
    """Rows (b, p) float32 divided by their length; a zero row stays zero."""
    length = np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)
    length[length == 0] = 1
    scaled: Floats = rows / length
    return scaled


def _project(pool: FeatureReader, targets: Sequence[Wide], *, offsets: Sequence[float], raw: bool) -> Wide:
    lengths = [float(np.linalg.norm(target)) or 1.0 for target in targets]
    # Unit directions, so that float32 holds raw features of any size.
    directions = [(target / length).astype(np.float32) for target, length in zip(targets, lengths, strict=True)]
    scores = np.full((pool.n, len(targets)), np.nan)
    for block in pool.blocks(cached=True):
        for g, direction in enumerate(directions):
            dots = (block.unit @ direction).astype(np.float64) * lengths[g]
            scores[block.rows, g] = (dots * block.norm if raw else dots) - offsets[g]
    return scores
