"""The sentences on what runs learnt: each appears where it is true, and only there."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ntkcli.statistics.learning import by_heart, not_learnt, seeds_differ_more, share_nats
from ntkcli.statistics.validation import paired_difference

RNG = np.random.default_rng(0)


def runs(mean: float, *, seeds: int = 3, items: int = 200, between: float = 0.01) -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.normal(mean, 0.1, items)[None] + rng.normal(0, between, seeds)[:, None]


def test_the_loss_of_knowing_the_shares_alone() -> None:
    choices = [["yes", "no"], ["no", "yes"], ["yes", "no"], ["yes", "no"]]
    answers = np.array([0, 1, 0, 1])  # yes, yes, yes, no
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert share_nats(answers, choices) == pytest.approx(expected)
    assert share_nats(np.array([0, 1]), [["a", "b"], ["c", "d", "e"]]) == pytest.approx((math.log(2) + math.log(3)) / 2)


def test_an_arm_that_has_not_learnt_the_task() -> None:
    assert not_learnt("domain", runs(0.4), math.log(2), task="fpb") is None
    said = not_learnt("domain", runs(0.75), math.log(2), task="fpb")
    assert said is not None
    assert said.startswith("domain has not learnt fpb: its log loss, 0.7")
    assert "no better than guessing by the shares of the answers, 0.693" in said
    assert "--lr" in said
    unsure = np.repeat([[0.5], [0.68], [0.86]], 20, axis=1)
    assert not_learnt("domain", unsure, math.log(2), task="fpb") is not None  # lower, but not shown to be


def test_an_arm_that_learnt_its_rows_by_heart() -> None:
    said = by_heart("domain", 0.01, runs(0.9), 0.7, task="fpb")
    assert said is not None
    assert "by heart" in said
    assert "--epochs" in said
    assert by_heart("domain", 0.01, runs(0.4), 0.7, task="fpb") is None
    assert by_heart("domain", 0.5, runs(0.9), 0.7, task="fpb") is None


def test_seeds_that_differ_more_than_arms() -> None:
    apart = {"a": np.array([0.5, 0.51, 0.49]), "b": np.array([0.7, 0.71, 0.69])}
    assert seeds_differ_more(apart, task="fpb") is None
    noisy = {"a": np.array([0.5, 0.9, 0.2]), "b": np.array([0.6, 0.3, 0.8]), "c": np.array([0.4, np.nan])}
    said = seeds_differ_more(noisy, task="fpb")
    assert said is not None
    assert "--seeds" in said
    assert seeds_differ_more({"a": np.array([0.1]), "b": np.array([0.2])}, task="fpb") is None


def test_a_paired_difference_is_of_the_same_items_and_seeds() -> None:
    first = runs(0.5)
    found = paired_difference(first, first + 0.1)
    assert found.value == pytest.approx(-0.1)
    assert found.low == pytest.approx(-0.1)  # items and seeds cancel out
    noisy = paired_difference(first, first + RNG.normal(0.1, 0.5, first.shape))
    assert noisy.low < noisy.value < noisy.high
