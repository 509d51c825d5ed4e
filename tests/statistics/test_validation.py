"""Dose and response, LDS and power on made runs whose truth is known, and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ntkcli.statistics.correlation import resampled_spearman, spearman
from ntkcli.statistics.validation import (
    detectable_difference,
    detectable_lds,
    detectable_slope,
    dose_response,
    linear_datamodeling_score,
    spread_between_seeds,
    subsets_for,
    worst_for_diverged,
)

BINS, SEEDS, ITEMS = 5, 3, 60


def made(effect: float, *, noise: float = 0.02, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs whose loss rises by `effect` from the best bin to the worst."""
    rng = np.random.default_rng(seed)
    bins, seeds = (grid.ravel() for grid in np.meshgrid(np.arange(BINS), np.arange(SEEDS)))
    items = rng.exponential(1.0, ITEMS)
    nats = items[None] + (effect * bins / (BINS - 1) + rng.normal(0, noise, len(bins)))[:, None]
    shuffled = rng.permutation(len(bins))
    return bins[shuffled], seeds[shuffled], nats[shuffled]


@pytest.mark.parametrize("effect", [0.3, -0.3])
def test_a_score_that_is_right_and_one_that_is_reversed(effect: float) -> None:
    found = dose_response(*made(effect))
    assert found.slope == pytest.approx(effect, abs=0.04)
    assert found.slope_low < found.slope < found.slope_high
    assert (found.slope_low > 0) if effect > 0 else (found.slope_high < 0)
    assert found.rank_correlation == math.copysign(1, effect)
    assert found.p < 0.01
    assert found.bins == tuple(sorted(found.bins, reverse=effect < 0))


def test_the_slope_is_that_of_least_squares() -> None:
    bins, seeds, nats = made(0.1, noise=0.2)
    expected = stats.linregress(bins / (BINS - 1), nats.mean(axis=1)).slope
    assert dose_response(bins, seeds, nats).slope == pytest.approx(expected)


def test_a_random_score_is_found_right_as_rarely_as_the_level_says() -> None:
    p = np.array([dose_response(*made(0.0, seed=seed)).p for seed in range(40)])
    assert (p < 0.05).sum() <= 6  # 2 are expected; 7 or more have a probability of .3%
    assert p.min() > 0
    assert 0.3 < p.mean() < 0.7


def test_the_permutation_test_is_exact_where_it_can_be() -> None:
    nats = np.array([[0.0], [1.0], [2.0]])
    found = dose_response(np.arange(3), np.zeros(3, dtype=np.int64), nats)
    assert found.p == pytest.approx(2 / 6)  # the order itself and its reverse, of 3!


def test_a_run_that_diverged_is_the_worst_and_is_not_dropped() -> None:
    bins, seeds, nats = made(0.3)
    broken = nats.copy()
    broken[bins == 0] = np.nan
    found = dose_response(bins, seeds, broken)
    assert found.slope < dose_response(bins, seeds, nats).slope - 0.1
    assert found.bins[0] == pytest.approx(nats.mean(axis=1).max())
    assert (worst_for_diverged(np.full((2, 3), np.nan)) == 1).all()
    assert worst_for_diverged(nats) is nats


def test_runs_that_do_not_fill_the_bins_are_refused() -> None:
    bins, seeds, nats = made(0.1)
    with pytest.raises(ValueError, match="expected one of each pair"):
        dose_response(bins[1:], seeds[1:], nats[1:])
    bins[bins == 1] = 0
    bins[np.flatnonzero(bins == 0)[0]] = 1
    with pytest.raises(ValueError, match="bin"):
        dose_response(bins, seeds, nats)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=30))
def test_spearman_is_scipys(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs, dtype=np.float64).T
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert spearman(a, b) == 0
    else:
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_lds_of_scores_that_are_right_random_and_reversed() -> None:
    rng = np.random.default_rng(3)
    sums = rng.normal(size=40)
    nats = 1 - 0.1 * sums + rng.normal(0, 0.02, 40)
    right, reverse = linear_datamodeling_score(sums, nats), linear_datamodeling_score(-sums, nats)
    assert right.value == pytest.approx(stats.spearmanr(sums, -nats).statistic)
    assert 0.8 < right.low < right.value < right.high <= 1
    assert right.p < 0.001
    assert reverse.value == pytest.approx(-right.value)
    shuffled = rng.normal(size=40)
    chance = linear_datamodeling_score(shuffled, nats)
    assert chance.low < 0 < chance.high
    assert chance.p == pytest.approx(stats.spearmanr(shuffled, nats).pvalue, abs=0.03)
    nats[:3] = np.inf
    assert linear_datamodeling_score(sums, nats).value < right.value
    with pytest.raises(ValueError, match="expected as many"):
        linear_datamodeling_score(sums[:2], nats[:2])


def test_resampled_spearman_is_scipys_of_the_resample() -> None:
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, 6, 15).astype(float), rng.normal(size=15)
    b[:2] = -np.inf  # runs that diverged
    drawn = rng.integers(15, size=(20, 15))
    counts = np.stack([np.bincount(rows, minlength=15) for rows in drawn]).astype(float)
    expected = [spearman(a[rows], b[rows]) for rows in drawn]
    assert np.allclose(resampled_spearman(a, b, counts), expected)
    assert resampled_spearman(np.ones(3), np.arange(3.0), np.ones((1, 3))).tolist() == [0.0]


def test_the_spread_is_pooled_within_conditions() -> None:
    condition = np.array([0, 0, 0, 1, 1, 2])
    nats = np.array([1.0, 2.0, 3.0, 10.0, 12.0, 99.0])
    assert spread_between_seeds(condition, nats) == pytest.approx(math.sqrt((2 + 2) / 3))
    assert math.isnan(spread_between_seeds(np.arange(6), nats))


def test_what_is_called_detectable_is_detected_in_four_cases_of_five() -> None:
    """A t test is a little weaker with few runs; here the spread is known, as the formula has it."""
    rng = np.random.default_rng(0)
    spread, n = 0.03, 5
    size = detectable_difference(spread, n)
    z = (rng.normal(size, spread, (4000, n)).mean(1) - rng.normal(0, spread, (4000, n)).mean(1)) / (
        spread * math.sqrt(2 / n)
    )
    assert (np.abs(z) > 1.959964).mean() == pytest.approx(0.8, abs=0.02)
    x = np.tile(np.linspace(-0.5, 0.5, BINS), n)
    slope = detectable_slope(spread, BINS, n)
    y = slope * x + rng.normal(0, spread, (4000, len(x)))
    z = (y @ x / (x @ x)) / (spread / math.sqrt(x @ x))
    assert (np.abs(z) > 1.959964).mean() == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("n", [12, 40, 200])
def test_detectable_lds_and_the_subsets_it_takes_agree(n: int) -> None:
    assert subsets_for(detectable_lds(n) + 1e-9) == n
    assert detectable_lds(3) == 1.0
