"""Intervals over folds: against the variance that made data have, and what folds can't change."""

from __future__ import annotations

import numpy as np
import pytest

from ntkcli.statistics import TaskItems, compare_arms
from ntkcli.statistics.folds import compare_folds, over_folds
from ntkcli.statistics.resampling import seed_weights
from ntkcli.statistics.validation import dose_response, paired_difference

FOLDS = np.repeat(np.arange(5), 40)


def losses(values: dict[str, dict[str, np.ndarray]]) -> TaskItems:
    return TaskItems(values, higher_is_better=False, percent=False, unit="nats")


def test_values_are_means_over_all_items_and_equal_folds_add_nothing() -> None:
    rng = np.random.default_rng(0)
    base = np.tile(rng.normal(1, 0.5, 40), 5)  # every fold the same: nothing between folds
    items = losses({"a": {"0": base}, "b": {"0": base + np.tile(rng.normal(0.2, 0.1, 40), 5)}})
    found = compare_folds("t", items, FOLDS, baseline="a")
    plain = compare_arms({"t": items}, baseline="a")
    for over, without in zip(found.scores, plain.scores, strict=True):
        assert over.value == pytest.approx(without.value)
        assert (over.n, over.spread) == (200, None)
        assert [over.low, over.high] == pytest.approx([without.low, without.high], abs=0.02)
    assert found.scores[1].difference is not None
    assert found.scores[1].difference.test == "bootstrap over folds"
    assert "b is worse than a" in found.sentences[0]


def test_what_differs_between_folds_widens_the_interval_by_its_own_variance() -> None:
    """Folds' trainings differ by a known amount: the variance is that of items and of the folds, each once."""
    rng = np.random.default_rng(1)
    effect = np.array([-0.4, -0.2, 0.0, 0.2, 0.4])
    noise = rng.normal(0, 0.5, 200)
    noise -= np.repeat([noise[fold == FOLDS].mean() for fold in range(5)], 40)
    apart = effect[FOLDS] + noise
    zero = np.zeros(200)
    found = compare_folds("t", losses({"a": {"0": zero}, "b": {"0": zero + apart}}), FOLDS, baseline="a").scores[1]
    assert found.difference is not None
    width = found.difference.high - found.difference.low
    expected = np.sqrt(effect.var(ddof=1) / 5)  # the items' share is in the variance between folds already
    assert width / (2 * 1.96) == pytest.approx(expected, rel=0.1)
    narrow = compare_arms({"t": losses({"a": {"0": zero}, "b": {"0": zero + apart}})}, baseline="a").scores[1]
    assert narrow.difference is not None
    assert width > 1.8 * (narrow.difference.high - narrow.difference.low)


def test_seeds_are_drawn_in_each_fold_and_count_once() -> None:
    """With seeds that differ and nothing else between folds: the seeds' variance over all trainings."""
    rng = np.random.default_rng(2)
    seeds = rng.normal(0, 0.3, (3, 5))
    seeds -= seeds.mean(axis=0)
    values = {str(s): seeds[s][FOLDS] for s in range(3)}
    found = compare_folds("t", losses({"a": values}), FOLDS, baseline="a").scores[0]
    expected = np.sqrt((seeds.var(axis=0, ddof=1) / 3).mean() / 5)
    assert (found.high - found.low) / (2 * 1.96) == pytest.approx(expected, rel=0.1)
    assert found.spread == pytest.approx(np.std([seeds[s].mean() for s in range(3)], ddof=1))


def test_one_fold_is_no_fold_and_refusals() -> None:
    draws = np.random.default_rng(0).normal(size=(10_000, 1))
    assert (over_folds(np.zeros(1), draws, np.ones(1), seed_weights(1, np.random.default_rng(0))) == draws[:, 0]).all()
    with pytest.raises(ValueError, match="1 folds of 3 items"):
        compare_folds("t", losses({"a": {"0": np.zeros(3)}}), np.zeros(3, np.int64), baseline="a")
    with pytest.raises(ValueError, match="baseline c"):
        compare_folds("t", losses({"a": {"0": np.zeros(200)}}), FOLDS, baseline="c")


def test_a_validations_slope_and_oracle_know_folds() -> None:
    rng = np.random.default_rng(3)
    effect = np.array([-0.5, 0.5, 0.0, -0.2, 0.2])[FOLDS]  # a slope of its own in every fold
    bins, seeds = np.tile([0, 1], 3), np.repeat([0, 1, 2], 2)
    noise = rng.normal(0, 0.01, (6, 200))
    nats = 1 + noise + np.outer(bins, 0.3 + effect)
    plain, over = dose_response(bins, seeds, nats), dose_response(bins, seeds, nats, folds_I=FOLDS)
    assert over.slope == plain.slope == pytest.approx(0.3, abs=0.01)
    assert over.slope_high - over.slope_low > 3 * (plain.slope_high - plain.slope_low)
    pair = paired_difference(nats[bins == 1], nats[bins == 0], folds_I=FOLDS)
    assert pair.value == pytest.approx(0.3, abs=0.01)
    assert pair.low < pair.value - 0.2
