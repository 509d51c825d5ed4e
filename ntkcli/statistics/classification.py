"""Metrics of a classifier's answers, class by class. Definitions are scikit-learn's, with 0 for 0/0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntkcli.statistics.resampling import Floats, interval, item_counts


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class: precision, recall, F1 in [0, 1]; `support` items have it as the answer, `predicted` as prediction."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


@dataclass(frozen=True, slots=True)
class Classification:
    """`macro_f1` with its bootstrap 95% interval, `weighted_f1` by support, `balanced_accuracy` (mean recall), classes.

    The classes are those that stand as an answer or a prediction; a prediction of -1 (none) counts as wrong and is no
    class. `balanced_accuracy` is over the classes that stand as an answer.
    """

    macro_f1: float
    macro_f1_low: float
    macro_f1_high: float
    weighted_f1: float
    balanced_accuracy: float
    classes: tuple[ClassScore, ...]


def classify(
    answer: NDArray[np.integer], prediction: NDArray[np.integer], names: Sequence[str], *, seed: int = 0
) -> Classification:
    """The metrics of predictions (n,) against answers (n,), both positions in `names`; a prediction may be -1."""
    answer, prediction = np.asarray(answer, dtype=np.int64), np.asarray(prediction, dtype=np.int64)
    n_classes = len(names)
    right = answer == prediction
    columns = np.concatenate(  # per item: one-hot right answer, one-hot answer, one-hot prediction
        [
            _one_hot(np.where(right, answer, -1), n_classes),
            _one_hot(answer, n_classes),
            _one_hot(prediction, n_classes),
        ],
        axis=1,
    )
    totals = columns.sum(axis=0)
    hits, support, predicted = (totals[i * n_classes : (i + 1) * n_classes] for i in range(3))
    recall, precision = _ratio(hits, support), _ratio(hits, predicted)
    f1 = _ratio(2 * hits, support + predicted)
    seen = (support + predicted) > 0
    drawn = np.concatenate(
        [_macro_f1(counts @ columns) for counts in item_counts(len(answer), np.random.default_rng(seed))]
    )
    low, high = interval(drawn)
    return Classification(
        macro_f1=float(_macro_f1(totals[None])[0]),
        macro_f1_low=low,
        macro_f1_high=high,
        weighted_f1=float((f1 * support).sum() / support.sum()),
        balanced_accuracy=float(recall[support > 0].mean()),
        classes=tuple(
            ClassScore(
                names[c], float(precision[c]), float(recall[c]), float(f1[c]), int(support[c]), int(predicted[c])
            )
            for c in np.flatnonzero(seen).tolist()
        ),
    )


def _one_hot(codes: NDArray[np.integer], n_classes: int) -> Floats:
    hot: Floats = (codes[:, None] == np.arange(n_classes)).astype(np.float64)
    return hot


def _ratio(above: Floats, below: Floats) -> Floats:
    ratio: Floats = np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below > 0)
    return ratio


def _macro_f1(totals: Floats) -> Floats:
    """(R,) mean F1 over the classes seen, from hits, supports and predictions (R, 3C)."""
    hits, support, predicted = np.split(totals, 3, axis=1)
    seen = (support + predicted) > 0
    f1 = _ratio(2 * hits, support + predicted)
    means: Floats = f1.sum(axis=1) / np.maximum(1, seen.sum(axis=1))
    return means
