"""Select the rows with the highest scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ntkcli.selection.chooser import Chooser


def top(score: NDArray[np.float32], similarity: NDArray[np.float32], n: int) -> NDArray[np.int64]:
    """The `n` rows with the highest score, best first: (n,) int64. NaN rows are never chosen.

    Ties go to the higher similarity, then to the earlier row. O(rows log rows). `n` must not exceed the scored rows.
    """
    scored = np.flatnonzero(~np.isnan(score))
    tie = np.nan_to_num(similarity[scored], nan=0.0)  # only `votes` and `rds` have a second key; elsewhere it is NaN
    order = np.lexsort((scored, -tie, -score[scored]))
    return scored[order[:n]]


def choose_top(chooser: Chooser, score: NDArray[np.float32], similarity: NDArray[np.float32]) -> None:
    """Take the highest scores that are still open. A row's gain is its score above the median candidate's."""
    median = float(np.median(score)) if len(score) else 0.0
    for row in top(score, similarity, len(score)).tolist():
        if chooser.done:
            return
        if chooser.open[row]:
            chooser.take(row, float(score[row]) - median)
