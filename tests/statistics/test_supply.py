"""The number of near rows, on made pools whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from ntkcli.statistics.supply import nearness, own_nearness, supply


def test_nearness_is_the_mean_of_the_nearest() -> None:
    similar = np.array([[0.1, 0.9, 0.5, 0.7], [0.0, 0.2, 0.3, 0.1]])
    assert nearness(similar, k=2) == pytest.approx([0.8, 0.25])
    assert nearness(similar, k=9) == pytest.approx(similar.mean(axis=1))


def test_a_domain_row_is_compared_with_others_and_not_with_its_own_text() -> None:
    unit = np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    found = own_nearness(unit @ unit.T, k=1)
    assert found == pytest.approx([0.6, 0.6, 0.8, 0.8])  # the first two say the same and tell nothing of each other
    assert len(own_nearness(np.ones((3, 3)))) == 0


@pytest.mark.parametrize(("share", "domain"), [(0.1, 100), (0.5, 100), (0.5, 20)])
def test_the_interval_holds_the_truth(share: float, domain: int) -> None:
    """Rows like the domain's have its nearness, others none of it: 95% of the right rows are near at q = 5."""
    held = 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        own, right = rng.normal(1.0, 0.1, domain), rng.random(600) < share
        pool = np.where(right, rng.normal(1.0, 0.1, 600), rng.normal(-1.0, 0.1, 600))
        found = supply(own, pool, pool_rows=10_000, q=5.0, seed=seed)
        truth = 0.95 * share * 10_000
        held += found.low <= truth <= found.high
        assert found.low <= found.rows <= found.high
    assert held >= 8


def test_a_pool_that_was_looked_at_whole_has_only_the_thresholds_spread() -> None:
    own = np.full(50, 0.5)
    found = supply(own, np.array([0.4, 0.5, 0.6, 0.7]), pool_rows=4, q=5.0)
    assert (found.rows, found.low, found.high, found.share) == (3, 3, 3, 0.75)


def test_none_of_a_sample_leaves_an_upper_bound() -> None:
    found = supply(np.full(50, 0.5), np.zeros(2000), pool_rows=1_000_000, q=5.0)
    assert found.rows == found.low == 0
    assert 0.0005 < found.high / 1_000_000 < 0.003  # three in 2,000 at most, by the rule of three 0.0015


def test_a_higher_percentile_is_nearer() -> None:
    rng = np.random.default_rng(7)
    own, pool = rng.normal(1.0, 0.2, 60), rng.normal(0.8, 0.3, 500)
    rows = [supply(own, pool, pool_rows=5000, q=q).rows for q in (1, 5, 25, 50)]
    assert rows == sorted(rows, reverse=True)
    assert rows[0] > rows[-1]
