"""Arms with their seeds, on the same items of some tasks, against a baseline: values, intervals, tests.

An arm's value on a task is the mean over its seeds of the mean over items. The interval draws items, the same ones for
every arm (so comparisons are paired), and the seeds of each arm (`resampling.seed_weights`), the same for every task.
The average over tasks gives each task the same weight; the tasks themselves are taken as given, not drawn.

Legend: R resamples, N items, K runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ntkcli.statistics.arm_scores import ArmScore, Difference
from ntkcli.statistics.proportions import accuracy, mcnemar
from ntkcli.statistics.resampling import RESAMPLES, Floats, interval, resampled_means, seed_weights, two_sided_p
from ntkcli.statistics.sentences import sentence

AVERAGE = "average"
"""The task that stands for the mean over all tasks."""


@dataclass(frozen=True, slots=True)
class TaskItems:
    """Per-item results of one task: arm → seed → (N,) float, row i the same item everywhere.

    `weights` (N,) weight the items' mean (the loss is weighted by tokens), None for equal. `higher_is_better` says
    which way a difference counts; `percent` that values are shares, shown in points; `unit` what they are else.
    """

    values: Mapping[str, Mapping[str, NDArray[np.floating]]]
    weights: NDArray[np.floating] | None = None
    higher_is_better: bool = True
    percent: bool = True
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All arms on all tasks, task by task; where there are several tasks that can be averaged, then their average."""

    baseline: str
    scores: tuple[ArmScore, ...]
    sentences: tuple[str, ...] = field(default=())


def compare_arms(
    tasks: Mapping[str, TaskItems],
    *,
    baseline: str,
    averages: Mapping[str, Sequence[str] | Mapping[str, float]] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare every arm with `baseline` on every task and on their average, and say so in plain words.

    `averages` are tasks by the name of their average, weighted alike or by the weights given; by default all of them,
    as `average`. Only tasks whose values are shares that are better when higher count, and with fewer than two there is
    none. Deterministic by `seed`; an arm's numbers do not depend on which other arms are there, but for Holm's
    correction.

    Raises:
        ValueError: the tasks differ in arms or seeds, or no arm is the baseline, or a task has no items.
    """
    seeds = _checked(tasks, baseline)
    drawn = {
        arm: seed_weights(len(names), stream(seed, f"seeds {arm}"), resamples=resamples) for arm, names in seeds.items()
    }
    point: dict[str, dict[str, Floats]] = {}
    resampled: dict[str, dict[str, Floats]] = {}
    for task, items in tasks.items():
        point[task], resampled[task] = _task_draws(items, seeds, drawn, stream(seed, f"items {task}"), resamples)
    scores: list[ArmScore] = []
    for task, items in tasks.items():
        n = len(next(iter(next(iter(items.values.values())).values())))
        found = [_score(arm, task, point[task][arm], resampled[task][arm], seeds[arm], n, items) for arm in seeds]
        scores += _with_differences(found, resampled[task], baseline, items)
    for name, members in ({AVERAGE: list(tasks)} if averages is None else averages).items():
        shares = [task for task in members if tasks[task].percent and tasks[task].higher_is_better]
        if len(shares) < 2:
            continue
        weights = [members[task] for task in shares] if isinstance(members, Mapping) else None
        mean_point = {arm: np.average([point[task][arm] for task in shares], axis=0, weights=weights) for arm in seeds}
        mean_drawn = {
            arm: np.average([resampled[task][arm] for task in shares], axis=0, weights=weights) for arm in seeds
        }
        n = sum(score.n for score in scores if score.arm == baseline and score.task in shares)
        found = [_score(arm, name, mean_point[arm], mean_drawn[arm], seeds[arm], n, None) for arm in seeds]
        scores += _with_differences(found, mean_drawn, baseline, None)
    sentences = tuple(sentence(score, baseline, several_tasks=len(tasks) > 1) for score in scores if score.difference)
    return Comparison(baseline, tuple(scores), sentences)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979) of the p-values of one family, in their order."""
    order = np.argsort(p_values, kind="stable")
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def _checked(tasks: Mapping[str, TaskItems], baseline: str) -> dict[str, list[str]]:
    """Arm → its seeds, the same on every task."""
    if not tasks:
        raise ValueError("there is no task to compare on")
    seeds: dict[str, list[str]] | None = None
    for task, items in tasks.items():
        found = {arm: list(runs) for arm, runs in items.values.items()}
        if seeds is not None and found != seeds:
            raise ValueError(f"the task {task} has the arms {found}, others have {seeds}")
        seeds = found
        lengths = {len(values) for runs in items.values.values() for values in runs.values()}
        if len(lengths) != 1 or not lengths.pop():
            raise ValueError(f"the arms of the task {task} have no items, or not the same ones")
    if seeds is None or baseline not in seeds:
        raise ValueError(f"{baseline} is not one of the arms {', '.join(seeds or ())}")
    return seeds


def stream(seed: int, name: str) -> np.random.Generator:
    """A generator of its own for each purpose, so that adding an arm moves no other number."""
    return np.random.default_rng([seed, *name.encode()])


def _task_draws(
    items: TaskItems,
    seeds: Mapping[str, Sequence[str]],
    drawn: Mapping[str, Floats],
    rng: np.random.Generator,
    resamples: int,
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Arm → the value of each seed (S,), and arm → the resampled means over seeds (R,)."""
    columns = [np.asarray(items.values[arm][name], dtype=np.float64) for arm, names in seeds.items() for name in names]
    values_NK = np.stack(columns, axis=1)
    weights = np.ones(len(values_NK)) if items.weights is None else np.asarray(items.weights, dtype=np.float64)
    value_K = weights @ values_NK / weights.sum()
    means_RK = resampled_means(values_NK, weights, rng, resamples=resamples)
    point, resampled, start = {}, {}, 0
    for arm, names in seeds.items():
        own = slice(start, start + len(names))
        point[arm] = value_K[own]
        resampled[arm] = (means_RK[:, own] * drawn[arm]).sum(axis=1)
        start += len(names)
    return point, resampled


def _score(
    arm: str, task: str, point: Floats, resampled: Floats, names: Sequence[str], n: int, items: TaskItems | None
) -> ArmScore:
    """One arm on one task, without its difference; `items` is None for the average of shares."""
    low, high = interval(resampled)
    if items is not None and len(names) == 1 and (right := _right_or_wrong(items, arm, names[0])) is not None:
        wilson = accuracy(right)  # better than the bootstrap near 0 and 1, and the same in the middle
        low, high = wilson.low, wilson.high
    return ArmScore(
        arm=arm,
        task=task,
        value=float(point.mean()),
        low=low,
        high=high,
        n=n,
        seeds={name: float(value) for name, value in zip(names, point, strict=True)},
        spread=float(point.std(ddof=1)) if len(names) > 1 else None,
        difference=None,
        higher_is_better=items is None or items.higher_is_better,
        percent=items is None or items.percent,
        unit="" if items is None else items.unit,
    )


def _with_differences(
    scores: Sequence[ArmScore], resampled: Mapping[str, Floats], baseline: str, items: TaskItems | None
) -> list[ArmScore]:
    """The scores with their differences from the baseline, p-values corrected over all arms of the task."""
    reference = next(score for score in scores if score.arm == baseline)
    found: dict[str, Difference] = {}
    for score in scores:
        if score.arm == baseline:
            continue
        differences = resampled[score.arm] - resampled[baseline]
        p = _mcnemar_p(items, score, reference)
        test = "bootstrap" if p is None else "McNemar"
        p = two_sided_p(differences) if p is None else p
        found[score.arm] = Difference(score.value - reference.value, *interval(differences), p, p, test)
    corrected = holm([difference.p for difference in found.values()])
    for (arm, difference), p_holm in zip(list(found.items()), corrected, strict=True):
        found[arm] = replace(difference, p_holm=p_holm)
    return [replace(score, difference=found.get(score.arm)) for score in scores]


def _mcnemar_p(items: TaskItems | None, score: ArmScore, reference: ArmScore) -> float | None:
    if items is None or len(score.seeds) > 1 or len(reference.seeds) > 1:
        return None
    ours = _right_or_wrong(items, score.arm, *score.seeds)
    theirs = _right_or_wrong(items, reference.arm, *reference.seeds)
    if ours is None or theirs is None:
        return None
    return mcnemar(int((ours & ~theirs).sum()), int((theirs & ~ours).sum()))


def _right_or_wrong(items: TaskItems, arm: str, name: str) -> NDArray[np.bool_] | None:
    """The items as right or wrong, or None if they are something else or weighted."""
    values = np.asarray(items.values[arm][name])
    if items.weights is not None or not items.percent or not np.isin(values, (0, 1)).all():
        return None
    return values.astype(np.bool_)
