"""Intervals and tests against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ntkcli.statistics import accuracy, mcnemar, paired_difference


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
    expected = stats.binomtest(better, n).pvalue if n else 1.0
    assert mcnemar(better, worse) == pytest.approx(expected, rel=1e-9)


def test_paired_difference_against_scipys_bootstrap() -> None:
    draw = np.random.default_rng(0)
    baseline = draw.random(300) < 0.5
    run = np.where(draw.random(300) < 0.8, baseline, draw.random(300) < 0.7)
    found = paired_difference(run, baseline)
    assert found.value == pytest.approx(run.mean() - baseline.mean())
    expected = stats.bootstrap(
        (run, baseline),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found.low == pytest.approx(expected.low, abs=0.008)
    assert found.high == pytest.approx(expected.high, abs=0.008)


def test_equal_runs_do_not_differ() -> None:
    same = np.arange(50) % 3 == 0
    found = paired_difference(same, same)
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
