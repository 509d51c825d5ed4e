"""Comparisons over folds: every item is tested once, by models that were trained without the items of its fold.

The interval of a value draws items within each fold, seeds within each fold (every fold has trainings of its own), and
the folds themselves: by as much as their values differ beyond what their items and seeds explain, so that no source of
variance counts twice.

Legend: R resamples, N items, F folds, K runs (columns), S seeds of an arm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ntkcli.statistics.arm_scores import ArmScore, Difference
from ntkcli.statistics.comparison import Comparison, TaskItems, holm, stream
from ntkcli.statistics.resampling import RESAMPLES, Floats, interval, resampled_means, seed_weights, two_sided_p
from ntkcli.statistics.sentences import sentence

TEST = "bootstrap over folds"


def compare_folds(
    task: str,
    items: TaskItems,
    folds_N: NDArray[np.integer],
    *,
    baseline: str,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare every arm with `baseline` on the items of all folds; `folds_N` is the fold of each item.

    An arm's value is the mean over all items and seeds. Deterministic by `seed`; an arm's numbers do not depend on
    which other arms are there, but for Holm's correction.

    Raises:
        ValueError: no arm is the baseline, there are fewer than two folds, or arrays differ in length.
    """
    seeds = {arm: list(runs) for arm, runs in items.values.items()}
    columns = [np.asarray(items.values[arm][name], dtype=np.float64) for arm, names in seeds.items() for name in names]
    labels = np.unique(folds_N)
    if baseline not in seeds or len(labels) < 2 or {len(column) for column in columns} != {len(folds_N)}:
        raise ValueError(f"{len(labels)} folds of {len(folds_N)} items, arms {', '.join(seeds)}, baseline {baseline}")
    values_NK = np.stack(columns, axis=1)
    weights_N = np.ones(len(folds_N)) if items.weights is None else np.asarray(items.weights, dtype=np.float64)
    share_F = np.array([weights_N[folds_N == fold].sum() for fold in labels]) / weights_N.sum()
    rng = stream(seed, f"items {task}")
    point_FK, means_RFK = _by_fold(values_NK, weights_N, [folds_N == fold for fold in labels], rng, resamples)
    draws_RF = seed_weights(len(labels), stream(seed, "folds"), resamples=resamples)
    point: dict[str, Floats] = {}
    drawn: dict[str, Floats] = {}
    scores: list[ArmScore] = []
    start = 0
    for arm, names in seeds.items():
        own = slice(start, start + len(names))
        start += len(names)
        weights_RFS = np.stack(
            [
                seed_weights(len(names), stream(seed, f"seeds {arm} {fold}"), resamples=resamples)
                for fold in range(len(labels))
            ],
            axis=1,
        )
        point[arm], drawn[arm] = point_FK[:, own].mean(axis=1), (means_RFK[:, :, own] * weights_RFS).sum(axis=2)
        by_seed = share_F @ point_FK[:, own]
        low, high = interval(over_folds(point[arm], drawn[arm], share_F, draws_RF))
        scores.append(
            ArmScore(
                arm=arm,
                task=task,
                value=float(by_seed.mean()),
                low=low,
                high=high,
                n=len(folds_N),
                seeds={name: float(value) for name, value in zip(names, by_seed, strict=True)},
                spread=float(by_seed.std(ddof=1)) if len(names) > 1 else None,
                difference=None,
                higher_is_better=items.higher_is_better,
                percent=items.percent,
                unit=items.unit,
            )
        )
    found = _with_differences(scores, point, drawn, baseline, share_F, draws_RF)
    said = tuple(sentence(score, baseline, several_tasks=False) for score in found if score.difference)
    return Comparison(baseline, tuple(found), said)


def over_folds(point_F: Floats, drawn_RF: Floats, share_F: Floats, draws_RF: Floats) -> Floats:
    """Resamples (R,) of a value over all folds, of its `share_F` mean, from its resamples in each.

    `drawn_RF` were drawn independently from fold to fold. The folds' values `point_F` vary by these draws, and by what
    differs between folds (training rows, a training's chance where there is one seed): what the variance between folds
    exceeds the mean variance of the draws by. That much is added by drawing folds, `draws_RF` as `seed_weights` has it.
    """
    total: Floats = drawn_RF @ share_F
    if len(point_F) < 2:
        return total
    between = float(point_F.var(ddof=1))
    excess = between - float(drawn_RF.var(axis=0).mean())
    if excess <= 0:
        return total
    added: Floats = (draws_RF - 1 / len(point_F)) @ (point_F - point_F.mean())
    return total + math.sqrt(excess / between) * added


def _by_fold(
    values_NK: Floats, weights_N: Floats, masks: Sequence[NDArray[np.bool_]], rng: np.random.Generator, resamples: int
) -> tuple[Floats, Floats]:
    """The mean of each run in each fold (F, K), and its resamples over the fold's items (R, F, K)."""
    point, drawn = [], []
    for mask in masks:
        point.append(weights_N[mask] @ values_NK[mask] / weights_N[mask].sum())
        drawn.append(resampled_means(values_NK[mask], weights_N[mask], rng, resamples=resamples))
    return np.stack(point), np.stack(drawn, axis=1)


def _with_differences(
    scores: Sequence[ArmScore],
    point: Mapping[str, Floats],
    drawn: Mapping[str, Floats],
    baseline: str,
    share_F: Floats,
    draws_RF: Floats,
) -> list[ArmScore]:
    reference = next(score for score in scores if score.arm == baseline)
    found: dict[str, Difference] = {}
    for score in scores:
        if score.arm != baseline:
            apart_F, apart_RF = point[score.arm] - point[baseline], drawn[score.arm] - drawn[baseline]
            differences = over_folds(apart_F, apart_RF, share_F, draws_RF)
            p = two_sided_p(differences)
            found[score.arm] = Difference(score.value - reference.value, *interval(differences), p, p, TEST)
    corrected = holm([difference.p for difference in found.values()])
    for (arm, difference), p_holm in zip(list(found.items()), corrected, strict=True):
        found[arm] = replace(difference, p_holm=p_holm)
    return [replace(score, difference=found.get(score.arm)) for score in scores]
