"""How many rows of a pool are near a domain, from a sample of the pool. Plain numpy.

A row's nearness is the mean of its `NEAREST` highest cosines with rows of the domain. A pool row is *near* if its
nearness is at least the q-th percentile of what the domain's own rows have, each compared with the others alone. So
(100 - q)% of rows like the domain's are found near, and q decides how far out of the domain "near" still is.

Legend: m domain rows, n sampled pool rows, N pool rows, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from ntkcli.statistics.resampling import RESAMPLES, Floats, interval

NEAREST: Final = 5
"""Domain rows that a row's nearness is a mean over: a domain of several topics has a place for each; of one alone, a
near-duplicate would decide."""
SAME: Final = 1 - 1e-4
"""A cosine from which two domain rows count as the same text, which tells nothing of how near others are."""
FEWEST_DOMAIN: Final = 10
"""Rows of a domain: the 5th percentile of fewer is below all of them."""


@dataclass(frozen=True, slots=True)
class Supply:
    """`share` of the sample that is near, `rows` of the pool that are, with a 95% interval; where near begins.

    The interval is over the domain's rows (a smoothed bootstrap, so the threshold moves) and over the rows of the pool
    that were not looked at (Jeffreys' posterior of their share, and the number that it gives).
    """

    threshold: float
    share: float
    rows: int
    low: int
    high: int


def nearness(similar_nm: Floats, *, k: int = NEAREST) -> Floats:
    """Of rows (n,) by their cosines with domain rows: the mean of the k highest."""
    k = min(k, similar_nm.shape[1])
    found: Floats = np.partition(similar_nm, -k, axis=1)[:, -k:].mean(axis=1)
    return found


def own_nearness(similar_mm: Floats, *, k: int = NEAREST) -> Floats:
    """Of domain rows (m,): the same with the others alone, without itself and rows of the same text.

    Rows that have no other are left out.
    """
    others = np.where(np.eye(len(similar_mm), dtype=np.bool_) | (similar_mm >= SAME), -np.inf, similar_mm)
    ordered = -np.sort(-others, axis=1)[:, :k]
    there = np.isfinite(ordered)
    counts = there.sum(axis=1)
    found: Floats = np.where(there, ordered, 0.0).sum(axis=1)[counts > 0] / counts[counts > 0]
    return found


def supply(own_m: Floats, pool_n: Floats, *, pool_rows: int, q: float, seed: int = 0) -> Supply:
    """How many of `pool_rows` rows are near, by the nearness of domain rows and of pool rows drawn from these.

    `q` in percent.
    """
    rng = np.random.default_rng(seed)
    n, unseen = len(pool_n), pool_rows - len(pool_n)
    threshold = float(np.percentile(own_m, q))
    near = int((pool_n >= threshold).sum())
    thresholds_R = np.percentile(_smoothly_resampled(own_m, rng), q, axis=1)
    near_R = n - np.searchsorted(np.sort(pool_n), thresholds_R, side="left")
    share_R = rng.beta(near_R + 0.5, n - near_R + 0.5)
    low, high = interval((near_R + rng.binomial(unseen, share_R)).astype(np.float64))
    rows = near + round(unseen * near / n)
    return Supply(threshold, near / n, rows, min(rows, int(low)), max(rows, int(np.ceil(high))))


def _smoothly_resampled(values_m: Floats, rng: np.random.Generator) -> Floats:
    """Resamples (R, m) of values with normal noise of Silverman's width, shrunk to keep their variance.

    A plain resample has no value below the lowest, so a low percentile of a few values could only rise. (Silverman
    1986, sections 3.4.2 and 6.4.1.)
    """
    m, spread = len(values_m), float(values_m.std())
    drawn = values_m[rng.integers(m, size=(RESAMPLES, m))]
    if spread == 0.0:
        return drawn
    width = 1.06 * m**-0.2
    mean = values_m.mean()
    noisy = drawn - mean + width * spread * rng.standard_normal(drawn.shape)
    return np.asarray(mean + noisy / np.sqrt(1 + width**2))
