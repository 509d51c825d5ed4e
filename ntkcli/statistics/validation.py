"""What a validation by retraining shows: does the loss rise with a score's rank, and do summed scores predict it?

Pure numpy. The loss of a run is the mean over test items of nats of the right choice; lower is better. A run that
diverged is counted as the worst run there is, never dropped.

Legend: J runs, I items, K bins, S seeds, R resamples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from numpy.typing import NDArray

from ntkcli.statistics.correlation import ranks, resampled_spearman, spearman
from ntkcli.statistics.folds import over_folds
from ntkcli.statistics.resampling import RESAMPLES, Floats, interval, item_counts, seed_weights

EXACT_PERMUTATIONS = 20_000
"""At most this many arrangements are counted one by one; of more, as many are drawn."""
DETECTABLE = 1.959964 + 0.841621
"""Standard errors of a difference that a two-sided test at 5% finds with a power of 80%: z(.975) + z(.8)."""
FEWEST_SUBSETS = 10
"""Below, the 95% interval of a rank correlation of 0 is wider than from -.6 to .6: a validation says nothing."""

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DoseResponse:
    """Loss from the best bin of a score to its worst.

    `bins`: mean nats of each bin, best first; `lows`, `highs`: their 95% intervals over items and seeds. `slope`: nats
    that the loss rises by from the best bin to the worst on the line of least squares, with its 95% interval; positive
    where the rows that the score likes help more. `rank_correlation`: Spearman of bin and mean loss. `p`: two-sided
    permutation test of the slope, bins shuffled within each seed.
    """

    bins: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    slope: float
    slope_low: float
    slope_high: float
    rank_correlation: float
    p: float


@dataclass(frozen=True, slots=True)
class Lds:
    """Linear datamodeling score: Spearman over subsets of summed scores and minus the loss, with a 95% interval over
    subsets and a two-sided permutation p (TRAK, arXiv 2303.14186, section 2).
    """

    value: float
    low: float
    high: float
    p: float


def dose_response(
    bin_J: Integers, seed_J: Integers, nats_JI: Floats, *, folds_I: Integers | None = None, seed: int = 0
) -> DoseResponse:
    """How the loss follows the bins of one score: `bin_J` from 0, the best; every seed has one run in every bin.

    `folds_I`: the fold of each item, whose losses are of a training of its own; None for one training per run.

    Raises:
        ValueError: a seed lacks a bin or has one twice, or there is one bin only.
    """
    loss_SKI = _arranged(bin_J, seed_J, worst_for_diverged(nats_JI))
    n_bins = loss_SKI.shape[1]
    x_K = np.linspace(-0.5, 0.5, n_bins)
    weights_K = x_K / (x_K @ x_K)
    rng = np.random.default_rng(seed)
    mean_SK = loss_SKI.mean(axis=2)
    folds = _Folds(loss_SKI, folds_I, rng)
    ends = np.stack([interval(folds.total(np.eye(n_bins)[k])) for k in range(n_bins)], axis=1)
    low, high = interval(folds.total(weights_K))
    bins_K = mean_SK.mean(axis=0)
    return DoseResponse(
        bins=tuple(map(float, bins_K)),
        lows=tuple(map(float, ends[0])),
        highs=tuple(map(float, ends[1])),
        slope=float(bins_K @ weights_K),
        slope_low=low,
        slope_high=high,
        rank_correlation=spearman(np.arange(n_bins, dtype=np.float64), bins_K),
        p=_slope_p(mean_SK, weights_K, rng),
    )


def linear_datamodeling_score(sum_J: Floats, nats_J: Floats, *, seed: int = 0) -> Lds:
    """Spearman of summed scores with minus the loss of as many subsets.

    A loss that is not finite ranks worst.

    Raises:
        ValueError: fewer than 3 subsets, or arrays of other lengths.
    """
    if len(sum_J) != len(nats_J) or len(sum_J) < 3:
        raise ValueError(f"{len(sum_J)} sums and {len(nats_J)} losses: expected as many of each, 3 or more")
    gain_J = -np.where(np.isfinite(nats_J), nats_J, np.inf)
    rng = np.random.default_rng(seed)
    value = spearman(sum_J, gain_J)
    low, high = interval(
        np.concatenate([resampled_spearman(sum_J, gain_J, one) for one in item_counts(len(sum_J), rng)])
    )
    sums, gains = ranks(sum_J), ranks(gain_J)
    shuffled_RJ = rng.permuted(np.tile(sums - sums.mean(), (RESAMPLES, 1)), axis=1)
    scale = math.sqrt(float(((sums - sums.mean()) ** 2).sum() * ((gains - gains.mean()) ** 2).sum()))
    shuffled = np.abs(shuffled_RJ @ (gains - gains.mean())) / (scale or 1.0)
    p = (1 + int((shuffled >= abs(value) - 1e-12).sum())) / (1 + RESAMPLES)
    return Lds(value, low, high, p)


@dataclass(frozen=True, slots=True)
class PairedRuns:
    """Mean loss of one condition minus another's (nats; negative: the first is better), with its 95% interval."""

    value: float
    low: float
    high: float


def paired_difference(
    first_SI: Floats, second_SI: Floats, *, folds_I: Integers | None = None, seed: int = 0
) -> PairedRuns:
    """The difference of two conditions trained with the same seeds and measured on the same items.

    The interval is over items and seeds, the same draws for both, and over folds (`folds_I`, as `dose_response`).
    """
    difference_SI = first_SI - second_SI
    folds = _Folds(difference_SI[:, None], folds_I, np.random.default_rng(seed))
    low, high = interval(folds.total(np.ones(1)))
    return PairedRuns(float(difference_SI.mean()), low, high)


class _Folds:
    """Resampled means of losses (S, K, I) over seeds and items, fold by fold; one fold where `folds_I` is None."""

    def __init__(self, loss_SKI: Floats, folds_I: Integers | None, rng: np.random.Generator) -> None:
        n_seeds, n_bins, n_items = loss_SKI.shape
        labels = np.zeros(n_items, dtype=np.int64) if folds_I is None else folds_I
        point, drawn, shares = [], [], []
        for fold in np.unique(labels):
            own_SKI = loss_SKI[:, :, labels == fold]
            n_own = own_SKI.shape[2]
            seeds_RS = seed_weights(n_seeds, rng)
            flat = own_SKI.reshape(n_seeds * n_bins, n_own).T
            by_items = np.concatenate([counts @ flat for counts in item_counts(n_own, rng)]) / n_own
            drawn.append(np.einsum("rs,rsk->rk", seeds_RS, by_items.reshape(RESAMPLES, n_seeds, n_bins)))
            point.append(own_SKI.mean(axis=(0, 2)))
            shares.append(n_own / n_items)
        self._point_FK, self._drawn_RFK, self._share_F = np.stack(point), np.stack(drawn, axis=1), np.array(shares)
        self._draws_RF = seed_weights(len(shares), rng) if len(shares) > 1 else np.ones((RESAMPLES, 1))

    def total(self, weights_K: Floats) -> Floats:
        """Resamples (R,) of the weighted sum over bins, over all folds."""
        return over_folds(self._point_FK @ weights_K, self._drawn_RFK @ weights_K, self._share_F, self._draws_RF)


def worst_for_diverged(nats_JI: Floats) -> Floats:
    """The losses with every run that holds a value that is not finite given the item losses of the worst finite run.

    All of them 1 if no run is finite, so that no bin differs.
    """
    finite_J = np.isfinite(nats_JI).all(axis=1)
    if finite_J.all():
        return nats_JI
    found = nats_JI.copy()
    finite_FI = nats_JI[finite_J]
    found[~finite_J] = finite_FI[np.argmax(finite_FI.mean(axis=1))] if len(finite_FI) else 1.0
    return found


def spread_between_seeds(condition_J: Integers, nats_J: Floats) -> float:
    """Standard deviation of a run's loss about the mean of its condition (nats), pooled over conditions.

    NaN where no condition was trained twice. Runs that diverged are left out of this figure.
    """
    squares, freedom = 0.0, 0
    for condition in np.unique(condition_J):
        own = nats_J[(condition_J == condition) & np.isfinite(nats_J)]
        if len(own) > 1:
            squares += float(((own - own.mean()) ** 2).sum())
            freedom += len(own) - 1
    return math.sqrt(squares / freedom) if freedom else math.nan


def detectable_difference(spread: float, n_seeds: int) -> float:
    """The smallest difference of two arms (nats) that `n_seeds` runs of each show in four cases of five."""
    return detectable_between(spread, n_seeds, n_seeds)


def detectable_between(spread: float, n_first: int, n_second: int) -> float:
    """The same for two arms with this many runs each, in the unit of `spread`."""
    return DETECTABLE * spread * math.sqrt(1 / n_first + 1 / n_second)


def detectable_slope(spread: float, n_bins: int, n_seeds: int) -> float:
    """The smallest slope from the best bin to the worst (nats) that is shown in four cases of five."""
    x_K = np.linspace(-0.5, 0.5, n_bins)
    return DETECTABLE * spread / math.sqrt(n_seeds * float(x_K @ x_K))


def detectable_lds(n_subsets: int) -> float:
    """The smallest LDS that this many subsets show in four cases of five (Fisher's z for ranks, Fieller 1957)."""
    return math.tanh(DETECTABLE * math.sqrt(1.06 / (n_subsets - 3))) if n_subsets > 3 else 1.0


def subsets_for(lds: float) -> int:
    """How many subsets show an LDS of this size in four cases of five."""
    return math.ceil(1.06 * (DETECTABLE / math.atanh(lds)) ** 2 + 3)


def _arranged(bin_J: Integers, seed_J: Integers, nats_JI: Floats) -> Floats:
    """(S, K, I): the runs by seed and bin."""
    bins, seeds = np.unique(bin_J), np.unique(seed_J)
    if len(bins) < 2 or len(bin_J) != len(bins) * len(seeds):
        raise ValueError(f"{len(bin_J)} runs of {len(bins)} bins and {len(seeds)} seeds: expected one of each pair")
    order = np.lexsort((bin_J, seed_J))
    if not (bin_J[order] == np.tile(bins, len(seeds))).all():
        raise ValueError("a seed lacks a bin or has one twice")
    return nats_JI[order].reshape(len(seeds), len(bins), -1)


def _slope_p(mean_SK: Floats, weights_K: Floats, rng: np.random.Generator) -> float:
    """Two-sided, bins shuffled within each seed; exact where the arrangements can be counted."""
    n_seeds, n_bins = mean_SK.shape
    observed = abs(float((mean_SK @ weights_K).mean())) - 1e-12
    if math.factorial(n_bins) ** n_seeds <= EXACT_PERMUTATIONS:
        orders = list(permutations(range(n_bins)))
        own = [[float(row[list(order)] @ weights_K) for order in orders] for row in mean_SK]
        slopes = np.abs([sum(one) / n_seeds for one in product(*own)])
        return float((slopes >= observed).mean())
    drawn = np.zeros(EXACT_PERMUTATIONS)
    for row in mean_SK:
        orders_RK = rng.permuted(np.tile(np.arange(n_bins), (EXACT_PERMUTATIONS, 1)), axis=1)
        drawn += row[orders_RK] @ weights_K / n_seeds
    return float((1 + (np.abs(drawn) >= observed).sum()) / (1 + EXACT_PERMUTATIONS))
