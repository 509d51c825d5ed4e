"""Intervals against scipy, and the exact test against whole numbers and fractions."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from scipy import stats

from ntkcli.statistics import accuracy, mcnemar


@pytest.mark.parametrize(("right", "n"), [(0, 10), (7, 10), (10, 10), (61, 120), (499, 500)])
def test_accuracy_is_wilsons(right: int, n: int) -> None:
    found = accuracy(np.arange(n) < right)
    expected = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert (found.value, found.n) == (right / n, n)
    assert found.low == pytest.approx(expected.low, abs=1e-9)
    assert found.high == pytest.approx(expected.high, abs=1e-9)


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (5, 5), (12, 3), (40, 61), (400, 300)])
def test_mcnemar_is_the_exact_binomial_test(better: int, worse: int) -> None:
    n = better + worse
    tail = sum(comb(n, k) for k in range(min(better, worse) + 1))
    assert mcnemar(better, worse) == pytest.approx(float(min(1, Fraction(2 * tail, 2**n))), rel=1e-9)
