"""Metrics of classes against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from ntkcli.statistics import classify

DRAW = np.random.default_rng(5)
CASES = {
    "balanced": (DRAW.integers(0, 4, 300), DRAW.integers(0, 4, 300)),
    "one class never predicted": (np.array([0, 1, 2, 2, 1]), np.array([0, 0, 1, 1, 1])),
    "one class never right": (np.array([0, 0, 0, 1]), np.array([0, 0, 2, 2])),
    "one item": (np.array([1]), np.array([1])),
}


@pytest.mark.parametrize("case", list(CASES))
def test_equals_sklearn(case: str) -> None:
    answer, prediction = CASES[case]
    names = ["yes", "no", "maybe", "none"]
    found = classify(answer, prediction, names)
    seen = np.union1d(answer, prediction)
    expected = metrics.precision_recall_fscore_support(answer, prediction, labels=seen, zero_division=0)
    assert [c.name for c in found.classes] == [names[i] for i in seen]
    for i, values in enumerate(zip(*expected, strict=True)):
        c = found.classes[i]
        assert (c.precision, c.recall, c.f1, c.support) == pytest.approx(values)
        assert c.predicted == (prediction == seen[i]).sum()
    assert found.macro_f1 == pytest.approx(metrics.f1_score(answer, prediction, average="macro", zero_division=0))
    assert found.weighted_f1 == pytest.approx(metrics.f1_score(answer, prediction, average="weighted", zero_division=0))
    recalls = [(prediction[answer == c] == c).mean() for c in np.unique(answer)]
    assert found.balanced_accuracy == pytest.approx(np.mean(recalls))


def test_balanced_accuracy_is_sklearns() -> None:
    answer, prediction = CASES["balanced"]
    found = classify(answer, prediction, list("abcd"))
    assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(answer, prediction))


def test_interval_of_macro_f1_against_sklearn_resampled() -> None:
    answer, prediction = CASES["balanced"]
    prediction = np.where(np.arange(300) % 3 > 0, answer, prediction)
    found = classify(answer, prediction, list("abcd"))
    draw = np.random.default_rng(1)
    drawn = []
    for _ in range(300):
        i = draw.integers(0, 300, 300)
        drawn.append(metrics.f1_score(answer[i], prediction[i], average="macro"))
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert (found.macro_f1_low, found.macro_f1_high) == pytest.approx((low, high), abs=0.02)


def test_no_answer_is_wrong_and_no_class() -> None:
    found = classify(np.array([0, 0, 1]), np.array([0, -1, 1]), ["a", "b"])
    assert [c.name for c in found.classes] == ["a", "b"]
    assert found.classes[0].recall == 0.5
    assert found.classes[0].precision == 1.0
