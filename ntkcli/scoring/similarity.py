"""Scores by similarity to the domain: the paper's mean kernel value, the mean cosine and the highest cosine.

With x a pool row's feature, a_i the domain rows', u(x) = x/|x| and m the pool's mean feature:

    mean             s_j = <mean_i a_i, x_j>                        (arXiv 2511.07380, section 4)
    mean, centred    s_j = <mean_i a_i - m, x_j - m>                HΘH of kernel PCA
    cosine           s_j = mean_i <u(a_i), u(x_j)>
    cosine, centred  s_j = mean_i cos(u(a_i) - m, u(x_j) - m)       m of the unit features
    max              s_j = max_i of the same cosines

Centring takes out the component that all gradients share, which otherwise outweighs what tells rows apart.
One pass over the pool (two when centred), some blocks in memory. `mean` and `cosine` take groups of domain rows and
give one column each; results (n, groups) float64, NaN for rows without features. `max`: `ntkcli.scoring.nearest`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ntkcli.scoring.features import FeatureReader, Floats, Piece, Rows, Side, Wide, few_products
from ntkcli.scoring.passes import one_pass


def cosine_scores(pool: FeatureReader, groups: Sequence[Side], *, centre: bool) -> Wide:
    """The mean cosine with each group's rows (n, groups), in [-1, 1] up to the sketch's error."""
    cosine = MeanCosine(pool, groups, centre=centre)
    one_pass(pool, by_piece=[cosine])
    return cosine.scores


class MeanKernel:
    """`mean` as part of a pass; `scores` (n, groups). Needs the pool's mean when `centre`, which is another pass."""

    def __init__(self, pool: FeatureReader, groups: Sequence[Side], *, centre: bool) -> None:
        targets = np.stack([group.mean(raw=True) for group in groups], axis=1)
        self._offsets: Wide = np.zeros(len(groups))
        if centre:
            pool_mean = pool.mean(raw=True)
            targets -= pool_mean[:, None]
            self._offsets = pool_mean @ targets
        self._lengths = np.linalg.norm(targets, axis=0)
        self._lengths[self._lengths == 0] = 1.0
        # Unit directions, so that float32 holds raw features of any size.
        self._directions = (targets / self._lengths).T.astype(np.float32)
        self.scores: Wide = np.full((pool.n, len(groups)), np.nan)

    def take_piece(self, piece: Piece) -> None:
        """The scores of these rows."""
        weight = piece.norm if piece.scale is None else piece.norm * piece.scale
        dots = few_products(self._directions, piece.steps.T).T.astype(np.float64)
        self.scores[piece.rows] = dots * self._lengths * weight[:, None] - self._offsets


class MeanCosine:
    """`cosine` as part of a pass; `scores` (n, groups). Needs the pool's mean when `centre`, which is another pass."""

    def __init__(self, pool: FeatureReader, groups: Sequence[Side], *, centre: bool) -> None:
        self.scores: Wide = np.full((pool.n, len(groups)), np.nan)
        self._centre = centre
        if not centre:
            targets = np.stack([group.mean(raw=False) for group in groups], axis=1)
            self._lengths = np.linalg.norm(targets, axis=0)
            self._lengths[self._lengths == 0] = 1.0
            self._directions = (targets / self._lengths).T.astype(np.float32)
            return
        mean = pool.mean(raw=False).astype(np.float32)
        towards = [unit_rows(group.unit_rows() - mean).mean(axis=0) for group in groups]
        self._directions = np.stack([*towards, mean])
        self._at_mean = self._directions @ mean.astype(np.float64)

    def take_piece(self, piece: Piece) -> None:
        """The scores of these rows."""
        products = few_products(self._directions, piece.steps.T).T.astype(np.float64)
        if piece.scale is not None:
            products *= piece.scale[:, None]
        if not self._centre:
            self.scores[piece.rows] = products * self._lengths
            return
        # <x - m, t> / |x - m| from products with x alone: nothing of the block's size is written.
        squares = np.vecdot(piece.steps, piece.steps).astype(np.float64)
        if piece.scale is not None:
            squares *= piece.scale.astype(np.float64) ** 2
        length = np.sqrt(np.maximum(squares - 2 * products[:, -1] + self._at_mean[-1], np.finfo(np.float32).tiny))
        self.scores[piece.rows] = (products[:, :-1] - self._at_mean[:-1]) / length[:, None]


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
