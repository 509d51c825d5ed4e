"""A score and a selector for ntksel. The entry points in pyproject.toml name the two objects at the end."""

from __future__ import annotations

import numpy as np

from ntkcli.plugins import Candidates, FeatureInputs, FeatureScore, Selector


def nearest_mean(inputs: FeatureInputs) -> tuple[np.ndarray, None]:
    """Minus the distance of each pool row to the mean of the domain's unit features, a column per group of rows."""
    means = np.stack([group.mean(raw=False) for group in inputs.groups])
    scores = np.full((inputs.pool.n, len(means)), np.nan)  # rows without features keep NaN
    for block in inputs.pool.blocks():
        for column, mean in enumerate(means):
            scores[block.rows, column] = -np.linalg.norm(block.unit - mean, axis=1)
    return scores, None


def spread(chooser, candidates: Candidates) -> None:
    """The best row first; then the row whose features are the least like any row taken. Its distance is the gain."""
    unit = candidates.unit()
    highest = np.full(len(unit), -1.0)  # the highest cosine with a row that was taken
    for row in chooser.taken:  # those of --must-include
        highest = np.maximum(highest, unit @ unit[row])
    first = np.where(np.isnan(candidates.score), -np.inf, candidates.score).astype(np.float64)
    while not chooser.done:
        row = chooser.best(1.0 - highest if chooser.taken else first)
        if chooser.take(row, float(1.0 - highest[row])):
            highest = np.maximum(highest, unit @ unit[row])


NEAREST_MEAN = FeatureScore(summary="minus the distance to the domain's mean", compute=nearest_mean, passes=None)
SPREAD = Selector(spread, "the row least like those taken")
