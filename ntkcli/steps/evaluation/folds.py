"""What evaluations of several folds show together: every item of the domain once, tasks to retain in every fold.

Reads the store only. Must not know how folds were made or what trained the runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.errors import NtkselError
from ntkcli.statistics import TaskItems, compare_arms, group_seeds
from ntkcli.statistics.folds import compare_folds
from ntkcli.steps.evaluation.summary import (
    RETAINED,
    EvaluateResult,
    columns_of,
    measures_of,
    scorers_of,
    task_items,
)

Columns = Mapping[str, NDArray[Any]]


def summarise_folds(artefacts: Mapping[str, Sequence[store.Artefact]], *, name: str, baseline: str) -> EvaluateResult:
    """The result over all folds. `artefacts`: run → its eval in each fold, whose first task are the fold's items.

    The intervals of that task are `ntkcli.statistics.folds`'. Other tasks have the same items in every fold: there the
    trainings of all folds count as seeds.

    Raises:
        NtkselError: no item can be used, or folds are scored in different ways.
    """
    runs = list(artefacts)
    arms = group_seeds(runs)
    first = artefacts[runs[0]]
    n_folds, tasks = len(first), [str(task) for task in first[0].attrs["tasks"]]
    scorer = _scorer(first, tasks[0])
    read = {run: [columns_of(one) for one in folds] for run, folds in artefacts.items()}
    status = [np.maximum.reduce([read[run][fold]["status"] for run in runs]) for fold in range(n_folds)]
    task = [read[runs[0]][fold]["task"] for fold in range(n_folds)]
    usable = [one < store.RowStatus.UNREADABLE for one in status]
    masks = [usable[fold] & (task[fold] == 0) for fold in range(n_folds)]
    if not all(mask.any() for mask in masks):
        empty = next(fold for fold, mask in enumerate(masks) if not mask.any())
        raise NtkselError(
            f"No item of fold {empty + 1} can be compared under every run.", "Give fewer --folds, or --dtype float32."
        )
    folds = np.repeat(np.arange(n_folds), [int(mask.sum()) for mask in masks])
    joined = {run: _joined(read[run], masks) for run in runs}
    every = np.ones(len(folds), dtype=np.bool_)
    items = task_items(arms, joined, every, scorer, {})
    compared = compare_folds(tasks[0], items, folds, baseline=baseline)
    retained = {
        tasks[code]: found
        for code in range(1, len(tasks))
        if (found := _retained(arms, read, code, usable, scorers_of(first[0], tasks)[tasks[code]])) is not None
    }
    kept = compare_arms(retained, baseline=baseline, averages={RETAINED: list(retained)}) if retained else None
    return EvaluateResult(
        artefact=f"evals/{name}",
        baseline=baseline,
        scores=(*compared.scores, *(kept.scores if kept else ())),
        sentences=(*compared.sentences, *(kept.sentences if kept else ())),
        runs=tuple(measures_of(run, tasks[0], scorer, joined[run], every, None) for run in runs),
        retained=tuple(retained),
        items=len(folds),
        truncated=sum(int((one == store.RowStatus.TRUNCATED).sum()) for one in status),
        skipped=sum(int((~one).sum()) for one in usable),
        digests={f"{run}, fold {i + 1}": one.digest() for run, own in artefacts.items() for i, one in enumerate(own)},
    )


def _scorer(folds: Sequence[store.Artefact], task: str) -> str:
    found = {scorers_of(one, [str(each) for each in one.attrs["tasks"]])[task] for one in folds}
    if len(found) > 1:
        raise NtkselError(
            f"The folds of {task} are scored in different ways: {', '.join(sorted(found))}.",
            "Give a domain whose rows all have choices, or none.",
        )
    return found.pop()


def _joined(folds: Sequence[Columns], masks: Sequence[NDArray[np.bool_]]) -> dict[str, NDArray[Any]]:
    """The items of all folds, one after the other, from arrays with one number or text per item."""
    names = [name for name, values in folds[0].items() if values.ndim == 1]
    return {name: np.concatenate([fold[name][mask] for fold, mask in zip(folds, masks, strict=True)]) for name in names}


def _retained(
    arms: Mapping[str, Mapping[str, str]],
    read: Mapping[str, Sequence[Columns]],
    code: int,
    usable: Sequence[NDArray[np.bool_]],
    scorer: str,
) -> TaskItems | None:
    """A task of the same items in every fold: an arm's seeds are its trainings in all folds; None without an item."""
    any_run = next(iter(read.values()))
    own = [fold["task"] == code for fold in any_run]
    good = np.logical_and.reduce([mask[where] for mask, where in zip(usable, own, strict=True)])
    if not good.any():
        return None
    by_fold = {
        f"{run} {fold}": {name: values[own[fold]][good] for name, values in columns.items() if values.ndim == 1}
        for run, folds in read.items()
        for fold, columns in enumerate(folds)
    }
    seeds = {
        arm: {f"{seed}.f{fold + 1}": f"{run} {fold}" for seed, run in runs.items() for fold in range(len(own))}
        for arm, runs in arms.items()
    }
    return task_items(seeds, by_fold, np.ones(int(good.sum()), dtype=np.bool_), scorer, {})
