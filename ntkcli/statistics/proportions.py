"""The share of right answers of one run, and McNemar's test of two. Knows nothing of stores or models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
"""The 97.5% quantile of the standard normal distribution."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """A share of right answers in [0, 1] of `n` items, and its Wilson 95% interval (Wilson 1927)."""

    value: float
    low: float
    high: float
    n: int


def accuracy(correct: NDArray[np.bool_]) -> Accuracy:
    """The share of right answers with its interval.

    scipy has the interval in scipy.stats alone, which takes longer to import than the rest of a finished `ntksel eval`.
    """
    n = len(correct)
    share = float(np.mean(correct))
    centre = (share + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n**2))
    return Accuracy(share, max(0.0, centre - half), min(1.0, centre + half), n)


def mcnemar(better: int, worse: int) -> float:
    """Exact two-sided p of McNemar's test from the numbers of items where only one of the two is right."""
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(better, worse), better + worse, 0.5)))
