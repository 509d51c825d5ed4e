"""The share of right answers of one run, and two runs on the same items. Knows nothing of stores or models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntkcli.statistics.resampling import RESAMPLES

Z95 = 1.959963984540054
"""The 97.5% quantile of the standard normal distribution."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A share of right answers in [0, 1] of `n` items, and its Wilson 95% interval (Wilson 1927)."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Accuracy of a run minus a baseline's on the same items, in [-1, 1]: value, 95% interval, p of McNemar's test.

    The interval is a paired bootstrap's (items resampled, percentiles); p is exact and two-sided.
    """

    value: float
    low: float
    high: float
    p: float


def accuracy(correct: NDArray[np.bool_]) -> Accuracy:
    """The share of right answers with its interval.

    scipy has the interval in scipy.stats alone, which takes longer to import than the rest of a finished `ntksel eval`.
    """
    n = len(correct)
    share = float(np.mean(correct))
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return Accuracy(share, max(0.0, centre - half), min(1.0, centre + half), n)


def paired_difference(correct: NDArray[np.bool_], baseline: NDArray[np.bool_], *, seed: int = 0) -> PairedDifference:
    """How a run compares with a baseline, both (n,) bool over the same items in the same order."""
    difference = correct.astype(np.int64) - baseline.astype(np.int64)
    # An item's difference is -1, 0 or 1, so a resample of items is a multinomial draw of the three counts.
    n = len(difference)
    counts = np.array([(difference == value).sum() for value in (-1, 0, 1)])
    draws = np.random.default_rng(seed).multinomial(n, counts / n, size=RESAMPLES)
    low, high = np.percentile((draws[:, 2] - draws[:, 0]) / n, [2.5, 97.5])
    return PairedDifference(float(difference.mean()), float(low), float(high), mcnemar(int(counts[2]), int(counts[0])))


def mcnemar(better: int, worse: int) -> float:
    """Exact two-sided p of McNemar's test from the numbers of items where only one of the two is right."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(better, worse), better + worse, 0.5)))
