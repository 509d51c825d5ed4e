"""Rank correlation and its intervals: against scipy, and by how often the interval holds the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ntkcli.statistics.correlation import (
    ranks,
    resampled_pearson,
    spearman,
    spearman_of_few,
    spearman_of_sample,
)


def test_ranks_and_spearman_are_scipys() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 30).astype(float), rng.normal(size=30)
    assert ranks(a).tolist() == (stats.rankdata(a) - 1).tolist()
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert spearman(np.ones(4), np.arange(4.0)) == 0.0


def test_the_interval_holds_the_truth_in_95_of_100_samples() -> None:
    """Of normal pairs with correlation r Spearman is 6/π asin(r/2)."""
    rng = np.random.default_rng(1)
    r, n, held = 0.6, 80, 0
    truth = 6 / np.pi * np.arcsin(r / 2)
    for _ in range(400):
        a = rng.normal(size=n)
        found = spearman_of_sample(a, r * a + np.sqrt(1 - r**2) * rng.normal(size=n))
        held += found.low <= truth <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_a_perfect_order_has_no_spread_and_two_rows_say_nothing() -> None:
    x = np.arange(50.0)
    found = spearman_of_sample(x, x**3)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)
    few = spearman_of_sample(x[:3], -x[:3])
    assert (few.value, few.low, few.high) == (-1.0, -1.0, 1.0)


def test_the_bootstrap_is_about_the_formula() -> None:
    rng = np.random.default_rng(2)
    a = rng.normal(size=60)
    b = 0.7 * a + 0.7 * rng.normal(size=60)
    few, many = spearman_of_few(a, b), spearman_of_sample(a, b)
    assert few.value == many.value
    assert few.low == pytest.approx(many.low, abs=0.08)
    assert few.high == pytest.approx(many.high, abs=0.08)


def test_a_weighted_pearson_is_that_of_repeated_pairs() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=9), rng.normal(size=9)
    counts = rng.integers(0, 3, (5, 9))
    expected = [np.corrcoef(np.repeat(a, row), np.repeat(b, row))[0, 1] for row in counts]
    assert resampled_pearson(a, b, counts.astype(float)) == pytest.approx(expected)
