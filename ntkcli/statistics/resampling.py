"""Bootstrap draws: of items, the same for every run, and of seeds.

Legend: R resamples, N items, K runs (columns), S seeds of an arm.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
"""Bootstrap resamples: the ends of a 95% interval then vary by about 1% of its width from seed to seed."""
_BLOCK_NUMBERS = 1 << 22
"""Of the counts that are held at once: 32 MiB."""

Floats = NDArray[np.float64]


def item_counts(n: int, rng: np.random.Generator, *, resamples: int = RESAMPLES) -> Iterator[Floats]:
    """How often each of `n` items is drawn in each resample: blocks (r, n) that make up (R, N)."""
    block = max(1, _BLOCK_NUMBERS // max(1, n))
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def resampled_means(values: Floats, weights: Floats, rng: np.random.Generator, *, resamples: int = RESAMPLES) -> Floats:
    """Σ w x / Σ w over items drawn with replacement, the same draws for every column: (R, K) from (N, K), (N,)."""
    weighted = values * weights[:, None]
    return np.concatenate(
        [
            counts @ weighted / np.maximum(counts @ weights, np.finfo(np.float64).tiny)[:, None]
            for counts in item_counts(len(values), rng, resamples=resamples)
        ]
    )


def seed_weights(n_seeds: int, rng: np.random.Generator, *, resamples: int = RESAMPLES) -> Floats:
    """The weight of each seed in each resample's mean: (R, S), rows sum to 1.

    S - 1 of the S seeds are drawn with replacement, so that the variance of the resampled mean is s²/S, with s² the
    unbiased variance between seeds (Rao and Wu 1988); drawing all S gives (S - 1)/S of it, two thirds for 3 seeds. One
    seed has no spread to draw from.
    """
    if n_seeds == 1:
        return np.ones((resamples, 1))
    drawn = n_seeds - 1
    return rng.multinomial(drawn, np.full(n_seeds, 1 / n_seeds), size=resamples) / drawn


def interval(resampled: Floats) -> tuple[float, float]:
    """The 95% percentile interval of resampled values (R,)."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)


def two_sided_p(differences: Floats) -> float:
    """Bootstrap p of "no difference" from resampled differences (R,): the percentile interval's level that holds 0."""
    n = len(differences)
    tail = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (n + 1))
