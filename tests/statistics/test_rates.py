"""Rates compared by held-out rows: the plain means, known differences, and what can't be told apart."""

from __future__ import annotations

import numpy as np
import pytest

from ntkcli.statistics.rates import judge_rates

RATES = np.array([1e-3, 1e-4, 1e-2])  # not in order, as a user may give them


def made(levels: list[float], *, rows: int = 60, seeds: int = 2, noise: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Rows of different difficulty, seen by all rates, and little noise of each trial."""
    draw = np.random.default_rng(3)
    difficulty = draw.normal(1.0, 0.5, rows)
    nats = np.array(levels)[:, None, None] + difficulty + noise * draw.standard_normal((len(levels), seeds, rows))
    return nats, difficulty + 1.0


def test_losses_are_weighted_means_and_the_lowest_is_best() -> None:
    nats, base = made([0.2, 0.6, 0.4])
    weights = np.arange(1, 61, dtype=float)
    found = judge_rates(RATES, nats, weights, base)
    assert [one.rate for one in found.rates] == [1e-4, 1e-3, 1e-2]
    by_rate = {one.rate: one for one in found.rates}
    for i, rate in enumerate(RATES):
        plain = sum(float((nats[i, s] * weights).sum() / weights.sum()) for s in range(2)) / 2
        assert by_rate[rate].loss == pytest.approx(plain)
        assert by_rate[rate].difference == pytest.approx(plain - by_rate[1e-3].loss)
    assert found.best == 1
    assert found.base_loss == pytest.approx(float((base * weights).sum() / weights.sum()))
    assert found.learnt
    assert [one.as_good for one in found.rates] == [False, True, False]


def test_the_interval_is_paired() -> None:
    """Rows differ by half a nat, the same for all rates: a difference of 0.1 shows, which unpaired rows would hide."""
    nats, base = made([0.0, 0.1, 0.1], seeds=1)
    found = judge_rates(RATES, nats, np.ones(60), base)
    other = found.rates[0]
    difference = (nats[1, 0] - nats[0, 0]).mean()
    error = (nats[1, 0] - nats[0, 0]).std() / np.sqrt(60)
    assert other.low == pytest.approx(difference - 1.96 * error, abs=0.15 * error)
    assert other.high == pytest.approx(difference + 1.96 * error, abs=0.15 * error)
    assert not other.as_good


def test_what_noise_hides_is_as_good() -> None:
    nats, base = made([0.5, 0.501, 0.9], noise=0.3, seeds=1)
    found = judge_rates(RATES, nats, np.ones(60), base)
    assert [one.as_good for one in found.rates] == [True, True, False]


def test_a_rate_that_diverged_is_never_best() -> None:
    nats, base = made([0.2, 0.6, 0.4])
    nats[0, 1] = np.nan
    found = judge_rates(RATES, nats, np.ones(60), base)
    assert found.best is not None
    assert found.rates[found.best].rate == 1e-2
    assert (found.rates[1].diverged, found.rates[1].loss, found.rates[1].as_good) == (1, np.inf, False)
    nats[:] = np.nan
    everything = judge_rates(RATES, nats, np.ones(60), base)
    assert everything.best is None
    assert not everything.learnt


def test_nothing_learnt() -> None:
    nats, base = made([1.0, 1.001, 1.002], noise=0.3)
    assert not judge_rates(RATES, nats, np.ones(60), base).learnt
