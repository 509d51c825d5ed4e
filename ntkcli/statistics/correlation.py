"""Rank correlation with its interval. Plain numpy; knows nothing of stores or models.

Legend: R resamples, J values of each side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntkcli.statistics.proportions import Z95
from ntkcli.statistics.resampling import Floats, interval, item_counts


@dataclass(frozen=True, slots=True)
class RankCorrelation:
    """Spearman's rank correlation of `n` pairs, with its 95% interval."""

    value: float
    low: float
    high: float
    n: int


def spearman(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 where one side is constant."""
    return correlation(ranks(a), ranks(b))


def spearman_of_sample(a: Floats, b: Floats) -> RankCorrelation:
    """Spearman with an interval by Fisher's z, standard error sqrt((1 + r²/2) / (n - 3)) (Bonett and Wright 2000).

    For samples of any size, millions of pairs as well: O(n log n).
    """
    value, n = spearman(a, b), len(a)
    if n <= 3:
        return RankCorrelation(value, -1.0, 1.0, n)
    if abs(value) >= 1.0:
        return RankCorrelation(value, value, value, n)
    half = Z95 * math.sqrt((1 + value**2 / 2) / (n - 3))
    return RankCorrelation(value, math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half), n)


def spearman_of_few(a: Floats, b: Floats, *, seed: int = 0) -> RankCorrelation:
    """Spearman with a bootstrap interval over the pairs (percentiles): for up to some hundred of them, O(R n²)."""
    low, high = interval(resampled_spearmans(a, b, seed=seed))
    return RankCorrelation(spearman(a, b), low, high, len(a))


def resampled_spearmans(a: Floats, b: Floats, *, seed: int = 0) -> Floats:
    """Spearman of each bootstrap resample of the pairs (R,): the same draws for the same `seed` and number of pairs."""
    rng = np.random.default_rng(seed)
    return np.concatenate([resampled_spearman(a, b, counts) for counts in item_counts(len(a), rng)])


def resampled_spearman(a_J: Floats, b_J: Floats, counts_RJ: Floats) -> Floats:
    """Spearman of each resample (R,), in which pair j is `counts_RJ[:, j]` times; 0 where one side is constant.

    The rank of j in a resample, ties at their mean: how many are below, and half of those that are equal.
    """
    n = counts_RJ.sum(axis=1, keepdims=True)
    centred = []
    for values in (a_J, b_J):
        below = (values[None] < values[:, None]) + 0.5 * (values[None] == values[:, None])
        ranks_RJ = counts_RJ @ below.T
        centred.append(ranks_RJ - (counts_RJ * ranks_RJ).sum(axis=1, keepdims=True) / n)
    return _weighted(centred[0], centred[1], counts_RJ)


def resampled_pearson(a_J: Floats, b_J: Floats, weights_RJ: Floats) -> Floats:
    """Pearson of each resample (R,), pairs weighted; 0 where one side is constant."""
    total = np.maximum(weights_RJ.sum(axis=1), np.finfo(np.float64).tiny)
    a_RJ, b_RJ = (values[None] - (weights_RJ @ values / total)[:, None] for values in (a_J, b_J))
    return _weighted(a_RJ, b_RJ, weights_RJ)


def ranks(values: Floats) -> Floats:
    """Ranks from 0, the lowest value first; equal values get the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts + 1) / 2)[inverse])


def correlation(a: Floats, b: Floats) -> float:
    """Pearson's correlation; 0 where one side is constant."""
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return max(-1.0, min(1.0, float(a @ b) / scale)) if scale else 0.0


def _weighted(a_RJ: Floats, b_RJ: NDArray[np.float64], weights_RJ: Floats) -> Floats:
    """Correlations of sides that are centred already."""
    scale_R = np.sqrt((weights_RJ * a_RJ**2).sum(axis=1) * (weights_RJ * b_RJ**2).sum(axis=1))
    products_R = (weights_RJ * a_RJ * b_RJ).sum(axis=1)
    found: Floats = np.divide(products_R, scale_R, out=np.zeros_like(products_R), where=scale_R > 1e-9)
    return found
