"""The tables of finished cells in Markdown: each arm's accuracy and log loss, and its distance to baselines.

The log loss is that of the right choice among an item's choices, -log softmax of their log-likelihoods, in nats. It is
kept beside accuracy because it sees what does not yet change the best choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from plan import Plan

import store
from ntkcli.statistics import AVERAGE, ArmScore, Comparison, Difference, TaskItems, compare_arms
from ntkcli.steps.shared.stores import open_store

Values = dict[str, dict[str, NDArray[np.float64]]]
"""Arm → seed → a value for each item."""


def print_tables(plans: Sequence[Plan], baselines: Sequence[str]) -> None:
    """A table for each cell with finished arms, then one of the average over tasks where several cells share a size."""
    by_size: dict[tuple[int, int], dict[str, tuple[Values, Values]]] = {}
    for plan in plans:
        found = finished(plan)
        if not found[0]:
            print(f"\n{plan.cell.name}: no arm is finished with the seeds {plan.setting.seeds}")
            continue
        print_table(plan.cell.name, {plan.cell.task: found}, plan.arms, baselines)
        by_size.setdefault((plan.cell.domain, plan.cell.n), {})[plan.cell.task] = found
    for (domain, n), tasks in by_size.items():
        if len(tasks) > 1:
            print_table(f"Average of {len(tasks)} tasks, |D| = {domain}, |S| = {n}", tasks, plans[0].arms, baselines)


def finished(plan: Plan) -> tuple[Values, Values]:
    """Right or wrong, and log loss, of every arm whose seeds are all evaluated; arms in the order of the plan."""
    if not Path(plan.store, "store.json").exists():
        return {}, {}
    stored = open_store(plan.store)
    right: Values = {}
    loss: Values = {}
    for arm in ("base", *plan.arms):
        runs = {str(s): plan.own(f"{arm}.s{s}") for s in plan.setting.seeds} if arm != "base" else {"": "base"}
        evals = {seed: _whole(stored, f"evals/{plan.cell.name}/{run}") for seed, run in runs.items()}
        if all(found is not None for found in evals.values()):
            right[arm] = {seed: found.read("correct").astype(float) for seed, found in evals.items() if found}
            loss[arm] = {seed: log_loss(found) for seed, found in evals.items() if found}
    return right, loss


def log_loss(found: store.Artefact) -> NDArray[np.float64]:
    """(N,) nats: -log of the right choice's share; NaN log-likelihoods are of choices that an item has not."""
    loglik_NC, answer_N = found.read("loglik"), found.read("answer")
    top_N1 = np.nanmax(loglik_NC, axis=1, keepdims=True)
    total_N = np.log(np.nansum(np.exp(loglik_NC - top_N1), axis=1)) + top_N1[:, 0]
    return np.asarray(total_N - loglik_NC[np.arange(len(answer_N)), answer_N])


def print_table(
    title: str,
    tasks: Mapping[str, tuple[Values, Values]],
    among: Sequence[str],
    baselines: Sequence[str],
    *,
    more: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """One table: the only task, or the average of several over the arms that all of them have.

    `more` has further columns: heading → arm → text.
    """
    arms = [arm for arm in ("base", *among) if all(arm in right for right, _ in tasks.values())]
    measures: list[dict[str, dict[str, ArmScore]]] = []
    for which, how in ((0, {}), (1, {"percent": False, "higher_is_better": False})):
        items = {task: TaskItems({arm: found[which][arm] for arm in arms}, **how) for task, found in tasks.items()}
        there = [b for b in baselines if b in arms] or arms[:1]
        measures.append({b: _scores(compare_arms(_averaged(items), baseline=b)) for b in there})
    n = sum(len(next(iter(right["base"].values()))) for right, _ in tasks.values())
    print(f"\n**{title}**, {n} test items; 95% intervals; * p ≤ .05 after Holm's correction over the arms\n")
    minus = [f"minus {b}" for b in baselines]
    further = more or {}
    columns = ["arm", "seeds", "accuracy", *minus, "nats", *minus, *further]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for arm in arms:
        cells: list[str] = [arm]
        for measure, scale, form in ((measures[0], 100, ".1f"), (measures[1], 1, ".3f")):
            score = next(iter(measure.values()))[arm]
            cells += [str(len(score.seeds))] if scale == 100 else []
            cells.append(f"{scale * score.value:{form}} ({scale * score.low:{form}} to {scale * score.high:{form}})")
            cells += [_difference(measure[b][arm].difference, scale, form) if b in measure else "" for b in baselines]
        cells += [by_arm.get(arm, "") for by_arm in further.values()]
        print(f"| {' | '.join(cells)} |")


def _averaged(items: dict[str, TaskItems]) -> dict[str, TaskItems]:
    """Only shares are averaged; the log loss of every task is in nats, so it may be as well."""
    return items if len(items) == 1 else {task: replace(one, percent=True) for task, one in items.items()}


def _scores(found: Comparison) -> dict[str, ArmScore]:
    """The average's scores by arm, or those of the only task."""
    several = any(score.task == AVERAGE for score in found.scores)
    return {score.arm: score for score in found.scores if score.task == AVERAGE or not several}


def _difference(found: Difference | None, scale: float, form: str) -> str:
    if found is None:
        return ""
    star = "*" if found.p_holm <= 0.05 else ""
    return f"{scale * found.value:+{form}}{star} ({scale * found.low:+{form}} to {scale * found.high:+{form}})"


def _whole(stored: store.Store, name: str) -> store.Artefact | None:
    found = stored.find(name)
    return found if found is not None and found.complete else None
