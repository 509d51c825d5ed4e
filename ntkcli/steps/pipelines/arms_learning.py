"""What the arms learnt: log losses of the right choices, and sentences where an arm, the seeds or the oracle fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import OnError
from ntkcli.data import Row
from ntkcli.statistics import ArmScore, TaskItems, compare_arms, group_seeds
from ntkcli.statistics.arm_scores import Difference
from ntkcli.statistics.folds import compare_folds
from ntkcli.statistics.learning import by_heart, choice_nats, not_learnt, seeds_differ_more, share_nats
from ntkcli.statistics.sentences import NATS_OF_ITEMS
from ntkcli.steps.evaluation.items import Items, load_tasks
from ntkcli.steps.pipelines.arms_folds import by_part, evals_of, part_summary, runs_of
from ntkcli.steps.pipelines.arms_plan import Plan


@dataclass(frozen=True, slots=True, eq=False)
class TaskLoss:
    """A task with choices: the loss of knowing the shares of its answers, and arm → seed → nats per item (I,).

    `folds` (I,): the fold of each item, None where every item was measured under the same runs.
    """

    task: str
    shares: float
    nats: dict[str, dict[str, NDArray[np.float64]]]
    folds: NDArray[np.int64] | None = None

    def mean(self, arm: str) -> float:
        """Nats of the right choice, a mean over items and seeds."""
        return float(np.mean(list(self.nats[arm].values())))

    def stacked(self, arm: str) -> NDArray[np.float64]:
        """Seeds by items."""
        return np.stack(list(self.nats[arm].values()))


@dataclass(frozen=True, slots=True, eq=False)
class _Choices:
    """A task with choices under the runs of one plan: its usable rows, and run → nats per item."""

    task: str
    rows: list[Row]
    nats: dict[str, NDArray[np.float64]]


def task_losses(stored: store.Store, plan: Plan, folds: Sequence[Plan] = ()) -> list[TaskLoss]:
    """The log losses of all arms on each task whose items are scored by choices, over items usable under every run.

    Of several `folds` (plans of `plan` for each) the first task is their items together; other tasks have the mean of
    the folds' losses.
    """
    evals = evals_of(stored, plan, folds)
    if any("loglik" not in one.arrays for own in evals.values() for one in own):
        return []
    found = [
        _choices(_items(each), {run: own[i] for run, own in evals.items()}) for i, each in enumerate(folds or [plan])
    ]
    losses = []
    for number, same in enumerate(zip(*found, strict=True)):
        if any(one is None for one in same):
            continue
        tasks = [one for one in same if one is not None]
        rows = [row for one in tasks for row in one.rows]
        labels = np.repeat(np.arange(len(tasks)), [len(one.rows) for one in tasks])
        if number == 0 or not folds:
            nats = {run: np.concatenate([one.nats[run] for one in tasks]) for run in evals}
        else:
            nats = {run: np.mean([one.nats[run] for one in tasks], axis=0) for run in evals}
        arms = {arm: {seed: nats[run] for seed, run in own.items()} for arm, own in group_seeds(evals).items()}
        is_split = bool(folds) and number == 0
        losses.append(TaskLoss(tasks[0].task, _shares(rows), arms, labels if is_split else None))
    return losses


def _choices(items: Items, artefacts: Mapping[str, store.Artefact]) -> list[_Choices | None]:
    """For each task what its items with choices lose under each run; None for a task without."""
    runs = {run: (one.read("loglik"), one.read("answer"), one.read("status")) for run, one in artefacts.items()}
    usable = np.maximum.reduce([status for _, _, status in runs.values()]) < store.RowStatus.UNREADABLE
    found: list[_Choices | None] = []
    for code, task in enumerate(items.tasks):
        mask = usable & (items.task == code)
        if task.scorer != "choices" or not mask.any():
            found.append(None)
            continue
        nats = {run: choice_nats(loglik[mask], answer[mask]) for run, (loglik, answer, _) in runs.items()}
        rows = [items.rows[i] for i in np.flatnonzero(mask)]
        found.append(_Choices(task.name, [row for row in rows if isinstance(row, Row)], nats))
    return found


def learning_sentences(
    stored: store.Store, plan: Plan, losses: Sequence[TaskLoss], folds: Sequence[Plan] = ()
) -> Iterator[str]:
    """Which arms have not learnt a task, or only their rows by heart, and whether seeds differ more than arms."""
    trained = {arm: own for arm, own in group_seeds(plan.runs()).items() if arm != "base"}
    named = runs_of(plan, folds)
    last = {
        arm: float(np.mean([_last_loss(stored, run) for each in own.values() for run in named[each]]))
        for arm, own in trained.items()
    }
    for loss in losses:
        for arm in trained:
            nats = loss.stacked(arm)
            said = not_learnt(arm, nats, loss.shares, task=loss.task)
            if said is None and "base" in loss.nats:
                said = by_heart(arm, last[arm], nats, loss.mean("base"), task=loss.task)
            if said is not None:
                yield said
        if said := seeds_differ_more({arm: loss.stacked(arm).mean(axis=1) for arm in trained}, task=loss.task):
            yield said


def oracle_sentences(
    stored: store.Store, plan: Plan, losses: Sequence[TaskLoss], folds: Sequence[Plan] = ()
) -> Iterator[str]:
    """Whether rows known to be right beat random ones on each task: where they do not, no score could."""
    if not {"oracle", "random"} <= set(plan.arms):
        return
    for part, own in by_part(plan, folds):
        oracle, random = part.name_of("oracle"), part.name_of("random")
        found = part_summary(stored, part, own, baseline=random, arms=(oracle, random))
        by_task = {loss.task: _difference(loss, oracle, random) for loss in losses}
        measured = {run.task for run in found.runs}
        for score in found.scores:
            if score.arm == oracle and score.task in measured and score.difference is not None:
                yield oracle_sentence(score, by_task.get(score.task), oracle=oracle, random=random)


def oracle_sentence(score: ArmScore, nats: Difference | None, *, oracle: str, random: str) -> str:
    """One task: by its measure, and by log loss where its items have choices. `score` must have a difference."""
    if score.difference is None:
        raise ValueError(f"{score.arm} is the baseline")
    d, scale = score.difference, 100 if score.percent else 1
    form, unit = (".1f", "points") if score.percent else (".3f", score.unit)
    shown = [f"{scale * d.value:+{form}} {unit}, 95% {scale * d.low:+{form}} to {scale * d.high:+{form}}"]
    beats = d.low > 0 if score.higher_is_better else d.high < 0
    if nats is not None:
        shown.append(f"{nats.value:+.3f} nats of log loss, 95% {nats.low:+.3f} to {nats.high:+.3f}")
        beats |= nats.high < 0
    figures = "; ".join(shown)
    if beats:
        return f"Rows known to be right ({oracle}) beat {random} on {score.task} ({figures}): there is a gain to find."
    return (
        f"The oracle does not beat random rows on {score.task}: no score could ({oracle} minus {random}: {figures}). "
        "Check the rows of --oracle, or give another --lr, more --seeds and --draws, or more rows (-n)."
    )


def _difference(loss: TaskLoss, oracle: str, random: str) -> Difference | None:
    values = {arm: loss.nats[arm] for arm in (random, oracle)}
    items = TaskItems(values, higher_is_better=False, percent=False, unit=NATS_OF_ITEMS)
    if loss.folds is None:
        compared = compare_arms({loss.task: items}, baseline=random)
    else:
        compared = compare_folds(loss.task, items, loss.folds, baseline=random)
    return next(score.difference for score in compared.scores if score.arm == oracle)


def _items(plan: Plan) -> Items:
    how: Mapping[str, object] = plan.evaluation
    retain = how.get("retain", ())
    on_error = OnError(str(how.get("on-error", OnError.FAIL)))
    return load_tasks(
        list(plan.tasks),
        retain=list(retain) if isinstance(retain, list) else [],
        on_error=on_error,
        text_as=plan.items_as,
    )


def _shares(rows: Sequence[Row]) -> float:
    known = [row for row in rows if row.answer is not None]
    return share_nats(np.array([row.answer for row in known]), [row.choices for row in known])


def _last_loss(stored: store.Store, run: str) -> float:
    """The mean training loss of the last tenth of a run's steps."""
    artefact = stored.get(f"runs/{run}")
    loss = artefact.read("loss")[artefact.read("tokens") > 0]
    return float(loss[-max(1, len(loss) // 10) :].mean())
