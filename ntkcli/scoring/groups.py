"""Several scores as one: across groups of domain rows, and of two scores by rank. Pure arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ntkcli.choices import Across
from ntkcli.scoring.features import Wide


def across_groups(scores: Wide, *, how: Across) -> Wide:
    """Scores (n, groups) as one (n,): the `max` (a row may serve one group well, as in LESS) or the `mean`."""
    reduced: Wide = scores.max(axis=1) if how == "max" else scores.mean(axis=1)
    return reduced


def combine_by_rank(scores: Sequence[Wide]) -> Wide:
    """The mean of each score's rank shares (n,) in (0, 1], 1 for the best; NaN where any score is NaN.

    Ranks count among the rows that all scores have; equal values share their mean rank. O(n log n).
    """
    both = ~np.isnan(np.stack(scores)).any(axis=0)
    combined = np.full(len(scores[0]), np.nan)
    n = max(1, int(both.sum()))
    combined[both] = np.mean([mean_ranks(score[both]) / n for score in scores], axis=0)
    return combined


def mean_ranks(values: Wide) -> Wide:
    """Ranks from 1, the lowest value first; equal values get the mean of their ranks."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Wide = (last - (counts - 1) / 2)[where]
    return ranks
