"""Which learning rate has the lowest held-out loss, and which others can't be told from it. Pure numpy.

Legend: K rates, S seeds, H held-out rows, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntkcli.statistics.resampling import RESAMPLES, Floats, interval, resampled_means, seed_weights


@dataclass(frozen=True, slots=True)
class RateLoss:
    """The held-out loss of one rate over its seeds, and its difference from the lowest loss with a 95% interval.

    `diverged` seeds of it have no loss, and then neither has the rate: infinity. `as_good`: the interval holds 0.
    """

    rate: float
    loss: float
    difference: float
    low: float
    high: float
    diverged: int
    as_good: bool


@dataclass(frozen=True, slots=True)
class RateFindings:
    """All rates ascending; the position of the best one, None if all diverged; the base model's loss.

    `base_low` and `base_high`: 95% interval of the best rate's loss minus the base model's.
    """

    rates: tuple[RateLoss, ...]
    best: int | None
    base_loss: float
    base_low: float = float("nan")
    base_high: float = float("nan")

    @property
    def learnt(self) -> bool:
        """Whether the best rate's loss is below the base model's by more than the interval."""
        return self.best is not None and self.base_high < 0


def judge_rates(
    rates: NDArray[np.floating], nats: NDArray[np.floating], weights: NDArray[np.floating],
    base: NDArray[np.floating], *, seed: int = 0, resamples: int = RESAMPLES,
) -> RateFindings:  # fmt: skip
    """Compare rates (K,) by the loss of each held-out row, `nats` (K, S, H), against the base model's (H,).

    A trial that diverged is NaN. `weights` (H,) weigh the rows: their tokens, or ones. Rows are drawn, the same ones
    for every rate, and seeds; deterministic by `seed`.
    """
    order = np.argsort(rates, kind="stable")
    values = nats[order].astype(np.float64)
    row_weights: Floats = weights.astype(np.float64)
    diverged = (~np.isfinite(values).all(axis=2)).sum(axis=1)
    losses = np.where(diverged > 0, np.inf, np.average(values, axis=2, weights=row_weights).mean(axis=1))
    base_loss = float(np.average(base.astype(np.float64), weights=row_weights))
    if not np.isfinite(losses).any():
        found = [RateLoss(float(rates[i]), np.inf, np.nan, np.nan, np.nan, int(diverged[k]), as_good=False)
                 for k, i in enumerate(order)]  # fmt: skip
        return RateFindings(tuple(found), None, base_loss)
    best = int(np.argmin(losses))
    good = np.flatnonzero(diverged == 0)
    drawn = _resampled(values[good], base.astype(np.float64), row_weights, seed, resamples)
    own = drawn[:, int(np.flatnonzero(good == best)[0])]
    found = []
    for k, i in enumerate(order):
        low = high = np.nan
        if diverged[k] == 0:
            low, high = interval(drawn[:, int(np.flatnonzero(good == k)[0])] - own)
        found.append(
            RateLoss(
                rate=float(rates[i]),
                loss=float(losses[k]),
                difference=float(losses[k] - losses[best]),
                low=low,
                high=high,
                diverged=int(diverged[k]),
                as_good=k == best or bool(low <= 0),
            )
        )
    base_low, base_high = interval(own - drawn[:, -1])
    return RateFindings(tuple(found), best, base_loss, base_low, base_high)


def _resampled(values: Floats, base: Floats, weights: Floats, seed: int, resamples: int) -> Floats:
    """Means over drawn rows and seeds: one column per rate, (R, K), and the base model's as the last."""
    n_rates, n_seeds, n_rows = values.shape
    rng = np.random.default_rng(seed)
    columns = np.concatenate([values.reshape(n_rates * n_seeds, n_rows), base[None]]).T
    means = resampled_means(columns, weights, rng, resamples=resamples)
    by_seed = means[:, :-1].reshape(resamples, n_rates, n_seeds)
    drawn = np.stack([seed_weights(n_seeds, rng, resamples=resamples) for _ in range(n_rates)], axis=1)
    return np.concatenate([(by_seed * drawn).sum(axis=2), means[:, -1:]], axis=1)
