"""What an evaluation found: measures run by run, and arms compared with the baseline. Reads the store only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.data import Row
from ntkcli.errors import NtkselError, UsageError
from ntkcli.statistics import (
    ArmScore,
    Classification,
    TaskItems,
    classify,
    compare_arms,
    group_seeds,
)
from ntkcli.statistics.resampling import interval, resampled_means
from ntkcli.steps.evaluation.items import Items

AVERAGE, RETAINED = "average", "average retained"
NATS = "nats a token"
ABILITY = ("choices", "generate")
HARNESS_SCORER = "lm_eval"


@dataclass(frozen=True, slots=True)
class RunMeasures:
    """A run on a task. `measures`: accuracy for `choices`; exact_match, token_f1, missing for `generate`; perplexity.

    With choices, `generate` has accuracy in place of exact_match and token_f1. `classes` is there if every item of the
    task has the same choices.
    """

    run: str
    task: str
    scorer: str
    n: int
    measures: dict[str, float]
    classes: Classification | None


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """The eval's name and baseline; arms against the baseline (`scores`, `sentences`); measures of single runs.

    `retained` are the tasks of general ability. `items` counts those that could be used under every run: all are
    compared on the same.
    """

    artefact: str
    baseline: str
    scores: tuple[ArmScore, ...]
    sentences: tuple[str, ...]
    runs: tuple[RunMeasures, ...]
    retained: tuple[str, ...]
    items: int
    truncated: int
    skipped: int
    digests: dict[str, str]


def summarise(
    artefacts: Mapping[str, store.Artefact], *, name: str, baseline: str | None = None, items: Items | None = None
) -> EvaluateResult:
    """The result of finished runs, by run name; `baseline` is an arm (default: the first run's).

    With `items` there are tables of classes, which need the items' texts.

    Raises:
        UsageError: the baseline is not one of the arms.
    """
    arms = group_seeds(artefacts)
    reference = next(iter(arms)) if baseline is None else baseline
    if reference not in arms:
        raise UsageError(
            f"--baseline {reference} is not one of the runs evaluated here.", f"Give one of: {', '.join(arms)}."
        )
    first = next(iter(artefacts.values()))
    tasks = [str(task) for task in first.attrs["tasks"]]
    retained = tuple(str(task) for task in first.attrs.get("retained", []))
    scorers = scorers_of(first, tasks)
    metrics: Mapping[str, Mapping[str, Any]] = first.attrs.get("metrics", {})
    columns = {run: columns_of(artefact) for run, artefact in artefacts.items()}
    status = np.maximum.reduce([read["status"] for read in columns.values()])  # a value may be finite under some runs
    codes = next(iter(columns.values()))["task"]
    usable = status < store.RowStatus.UNREADABLE
    masks = {task: usable & (codes == code) for code, task in enumerate(tasks) if (usable & (codes == code)).any()}
    for code, task in enumerate(tasks):
        if task not in masks:
            _refuse_if_not_finite(task, {run: read["status"][codes == code] for run, read in columns.items()})
    compared = compare_arms(
        {task: task_items(arms, columns, mask, scorers[task], metrics.get(task, {})) for task, mask in masks.items()},
        baseline=reference,
        averages={
            **_group_weights(first.attrs.get("groups", {}), {task: int(mask.sum()) for task, mask in masks.items()}),
            AVERAGE: [task for task in masks if task not in retained],
            RETAINED: [task for task in masks if task in retained],
        },
    )
    measured = tuple(
        _measures_of_metric(run, task, read, mask, metrics.get(task, {}))
        if scorers[task] == HARNESS_SCORER
        else measures_of(run, task, scorers[task], {name: values[mask] for name, values in read.items()}, mask, items)
        for task, mask in masks.items()
        for run, read in columns.items()
    )
    return EvaluateResult(
        artefact=f"evals/{name}",
        baseline=reference,
        scores=compared.scores,
        sentences=compared.sentences,
        runs=measured,
        retained=retained,
        items=int(usable.sum()),
        truncated=int((status == store.RowStatus.TRUNCATED).sum()),
        skipped=int((~usable).sum()),
        digests={run: artefact.digest() for run, artefact in artefacts.items()},
    )


def _refuse_if_not_finite(task: str, status: Mapping[str, NDArray[np.uint8]]) -> None:
    """NtkselError if a task has no item left because values are not finite; names the run that has most of these."""
    bad = {run: int((codes == store.RowStatus.NON_FINITE).sum()) for run, codes in status.items()}
    worst = max(bad, key=bad.__getitem__)
    if bad[worst]:
        raise NtkselError(
            f"No item of {task} can be compared: under {worst} the values of {bad[worst]} of {len(status[worst])} are "
            "not finite.",
            f"Leave --run {worst} out and give another --name, or give --dtype float32.",
        )


def scorers_of(artefact: store.Artefact, tasks: Sequence[str]) -> dict[str, str]:
    """The scorer of each task: the spec has one name for all of them, or a list."""
    found = artefact.spec["scorer"]
    return dict(zip(tasks, found if isinstance(found, list) else [found] * len(tasks), strict=True))


def columns_of(artefact: store.Artefact) -> dict[str, NDArray[Any]]:
    """All arrays of an eval's run."""
    return {name: artefact.read(name) for name in artefact.arrays}


def task_items(
    arms: Mapping[str, Mapping[str, str]],
    columns: Mapping[str, Mapping[str, NDArray[Any]]],
    mask: NDArray[np.bool_],
    scorer: str,
    metric: Mapping[str, Any],
) -> TaskItems:
    """The items of one task as the comparison takes them: right or wrong, or nats a token; or lm_eval's `metric`."""
    if scorer in ABILITY:
        return TaskItems(
            {arm: {seed: columns[run]["correct"][mask] for seed, run in runs.items()} for arm, runs in arms.items()}
        )
    any_run = next(iter(columns.values()))
    if scorer == HARNESS_SCORER:
        found = {arm: {s: columns[run]["value"][mask] for s, run in runs.items()} for arm, runs in arms.items()}
        unit = str(metric.get("unit", ""))
        shares = not unit and all(((x >= 0) & (x <= 1)).all() for runs in found.values() for x in runs.values())
        weights = any_run["weight"][mask] if "weight" in any_run else None  # evals of before have none
        return TaskItems(
            found,
            weights=None if weights is None or bool((weights == 1).all()) else weights,
            higher_is_better=bool(metric.get("higher_is_better", True)),
            percent=shares,
            unit=unit,
        )
    tokens = any_run["tokens"][mask].astype(np.float64)
    values = {
        arm: {seed: columns[run]["nll"][mask] / np.maximum(1, tokens) for seed, run in runs.items()}
        for arm, runs in arms.items()
    }
    return TaskItems(values, weights=tokens, higher_is_better=False, percent=False, unit=NATS)


def _group_weights(groups: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """The weight of each task in the value of its group of lm_eval, as the group has it: by its items, or alike."""
    return {
        name: {task: float(sizes[task]) if group["by_size"] else 1.0 for task in group["tasks"] if task in sizes}
        for name, group in groups.items()
    }


def _measures_of_metric(
    run: str, task: str, columns: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_], metric: Mapping[str, Any]
) -> RunMeasures:
    """The mean of the items, and under lm_eval's own name the metric: e to its power for a perplexity."""
    values = columns["value"][mask]
    weights = columns["weight"][mask] if "weight" in columns else np.ones(len(values))
    mean = float(weights @ values / weights.sum()) if weights.sum() else math.nan
    measures = {"value": mean}
    if metric:
        measures[str(metric["metric"])] = math.exp(min(mean, 700)) if metric["perplexity"] else mean
    return RunMeasures(run, task, HARNESS_SCORER, int(mask.sum()), measures, None)


def measures_of(
    run: str,
    task: str,
    scorer: str,
    columns: Mapping[str, NDArray[Any]],
    mask: NDArray[np.bool_],
    items: Items | None,
) -> RunMeasures:
    """The measures of a run on the items of a task; `columns` hold these alone, which `mask` marks among all."""
    n = int(mask.sum())
    if scorer == "loss":
        return RunMeasures(run, task, scorer, n, _loss_measures(columns), None)
    right, classes = float(columns["correct"].mean()), _classes(columns, mask, items)
    chosen = bool((columns["answer"] >= 0).all())
    measures = {"accuracy" if chosen else "exact_match": right}
    if scorer == "generate":
        if not chosen:
            measures["token_f1"] = float(np.nanmean(columns["f1"])) if np.isfinite(columns["f1"]).any() else math.nan
        measures["missing"] = float(np.mean([not text for text in columns["extracted"]]))
    if classes is not None:
        measures |= {
            "macro_f1": classes.macro_f1,
            "weighted_f1": classes.weighted_f1,
            "balanced_accuracy": classes.balanced_accuracy,
        }
    return RunMeasures(run, task, scorer, n, measures, classes)


def _loss_measures(columns: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Nats a token and perplexity over all tokens of the task, with its bootstrap 95% interval."""
    tokens = columns["tokens"].astype(np.float64)
    values = columns["nll"] / np.maximum(1, tokens)
    low, high = interval(resampled_means(values[:, None], tokens, np.random.default_rng(0))[:, 0])
    nats = float(columns["nll"].sum() / max(1.0, float(tokens.sum())))
    found = {"nats_per_token": nats, "perplexity": nats, "perplexity_low": low, "perplexity_high": high}
    return {name: value if name == "nats_per_token" else math.exp(min(value, 700)) for name, value in found.items()}


def _classes(
    columns: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_], items: Items | None
) -> Classification | None:
    """Metrics by class, if all items choose among the same answers, in whatever order."""
    if items is None:
        return None
    rows = [items.rows[i] for i in np.flatnonzero(mask)]
    sets = {frozenset(row.choices) for row in rows if isinstance(row, Row)}
    if len(sets) != 1 or not next(iter(sets)):
        return None
    first = rows[0]
    names = list(first.choices) if isinstance(first, Row) else []
    place = {name: i for i, name in enumerate(names)}

    def codes(column: str) -> NDArray[np.int64]:
        picked = zip(rows, columns[column].tolist(), strict=True)
        return np.array([place[row.choices[i]] if isinstance(row, Row) and i >= 0 else -1 for row, i in picked])

    return classify(codes("answer"), codes("prediction"), names)
