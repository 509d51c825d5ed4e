"""Kernel forms, their agreement, and ridge regression: against features and plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from ntkcli.statistics.kernels import (
    agreement,
    best_penalty,
    forms,
    leave_one_out,
    pearson_interval,
    ridge,
    ridge_classes,
)


def test_forms_are_those_of_the_features() -> None:
    features = np.random.default_rng(0).normal(1.0, 1.0, (9, 20))
    pool = np.arange(3, 9)
    found = forms(features @ features.T, pool)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    left = unit - unit[pool].mean(axis=0)
    left /= np.linalg.norm(left, axis=1, keepdims=True)
    np.testing.assert_allclose(found["cosine"], unit @ unit.T, atol=1e-12)
    np.testing.assert_allclose(found["centred"], left @ left.T, atol=1e-12)


def test_a_kernel_agrees_with_its_multiple_and_not_with_its_opposite() -> None:
    features = np.random.default_rng(1).normal(size=(12, 30))
    kernel, (domain, pool) = features @ features.T, (np.arange(4), np.arange(4, 12))
    same = agreement(3 * kernel, kernel, domain=domain, pool=pool)
    assert (same.cos_f, same.pearson, same.spearman, same.overlap) == pytest.approx((1, 1, 1, 1))
    other = agreement(-kernel, kernel, domain=domain, pool=pool)
    assert (other.cos_f, other.pearson, other.spearman, other.overlap) == pytest.approx((-1, -1, -1, 0))


def test_leave_one_out_is_a_loop_that_leaves_each_row_out() -> None:
    draw = np.random.default_rng(2)
    features, y = draw.normal(size=(11, 4)), np.eye(3)[draw.integers(0, 3, 11)]
    kernel = features @ features.T + 1
    for penalty in (0.01, 1.0, 30.0):
        expected = []
        for i in range(11):
            rest = np.delete(np.arange(11), i)
            expected.append(ridge(kernel[np.ix_(rest, rest)], kernel[np.ix_([i], rest)], y[rest], penalty)[0])
        np.testing.assert_allclose(leave_one_out(kernel, y, penalty), expected, atol=1e-9)


def test_the_penalty_is_high_for_noise_and_low_for_what_can_be_learnt() -> None:
    draw = np.random.default_rng(4)
    features = draw.normal(size=(40, 3))
    kernel = features @ features.T
    assert best_penalty(kernel, features @ draw.normal(size=(3, 2))) < 1e-4
    assert best_penalty(kernel, draw.normal(size=(40, 2))) > 1


def test_the_interval_of_an_agreement_is_over_rows() -> None:
    draw = np.random.default_rng(5)
    features = draw.normal(size=(14, 30))
    kernel = features @ features.T
    assert pearson_interval([2 * kernel], kernel) == pytest.approx((1, 1))
    noise = draw.normal(size=(14, 14))
    other = kernel + 3 * (noise + noise.T)
    low, high = pearson_interval([other], kernel)
    above = np.triu_indices(14, k=1)
    assert low < np.corrcoef(other[above], kernel[above])[0, 1] < high


def test_classes_that_the_features_tell_apart_are_learnt() -> None:
    draw = np.random.default_rng(6)
    answers = np.arange(60) % 3
    features = 3 * np.eye(3)[answers] @ draw.normal(size=(3, 12)) + draw.normal(size=(60, 12))
    for form in ("raw", "cosine", "centred"):
        found = ridge_classes(features @ features.T, answers[:40], classes=3, form=form)
        assert (found.predicted == answers[40:]).mean() > 0.9
        assert (found.left_out == answers[:40]).mean() > 0.9
