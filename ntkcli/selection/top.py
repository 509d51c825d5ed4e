"""Select the rows with the highest scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ntkcli.errors import UsageError
from ntkcli.selection.chooser import Chooser

LEAST_ELBOW = 0.2
"""Half of what normally distributed scores have (0.4 of 1,000): below it a curve is nearer to a straight line."""


def top(score: NDArray[np.float32], similarity: NDArray[np.float32], n: int) -> NDArray[np.int64]:
    """The `n` rows with the highest score, best first: (n,) int64. NaN rows are never chosen.

    Ties go to the higher similarity, then to the earlier row. O(rows log rows). `n` must not exceed the scored rows.
    """
    scored = np.flatnonzero(~np.isnan(score))
    tie = np.nan_to_num(similarity[scored], nan=0.0)  # only `votes` and `rds` have a second key; elsewhere it is NaN
    order = np.lexsort((scored, -tie, -score[scored]))
    return scored[order[:n]]


def elbow(score: NDArray[np.float32]) -> float:
    """How far the upper half of the scores, best first, falls below the straight line from the best to the median.

    From 0 (straight, or bent the other way) to 1 (all but the first at the median); the line falls from 1 to 0 over the
    length 1. 0 where all are equal.
    """
    upper = _upper_half(score)
    if len(upper) < 2 or upper[0] == upper[-1]:
        return 0.0
    height = (upper - upper[-1]) / (upper[0] - upper[-1])
    return float(np.max(np.linspace(1, 0, len(upper)) - height))


def least_elbow(score: NDArray[np.float32]) -> float:
    """What `elbow` has to reach: a fifth of the fall, and more than evenly spread scores show by chance.

    By chance: the Kolmogorov-Smirnov distance at 5%, 1.36 / √n (Smirnov 1948), since the measure is one from a uniform
    distribution.
    """
    return max(LEAST_ELBOW, 1.36 / float(np.sqrt(max(1, len(_upper_half(score))))))


def _upper_half(score: NDArray[np.float32]) -> NDArray[np.float64]:
    finite = np.sort(score[np.isfinite(score)].astype(np.float64))[::-1]
    return finite[: (len(finite) + 1) // 2]


def choose_top(chooser: Chooser, score: NDArray[np.float32], similarity: NDArray[np.float32]) -> None:
    """Take the highest scores that are still open. A row's gain is its score above the median candidate's.

    UsageError with `-n auto` if the scores have no elbow, so that where to stop would be a matter of chance.
    """
    if chooser.auto and (fall := elbow(score)) < least_elbow(score):
        raise UsageError(
            f"-n auto: the {len(score)} scores fall too evenly from the best one to the median to say where to stop "
            f"(the elbow is {fall:.2f} deep, {least_elbow(score):.2f} is needed).",
            "Give -n N, or --method coverage, whose gains fall by themselves.",
        )
    median = float(np.median(score)) if len(score) else 0.0
    for row in top(score, similarity, len(score)).tolist():
        if chooser.done:
            return
        if chooser.open[row]:
            chooser.take(row, float(score[row]) - median)
