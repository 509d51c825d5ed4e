"""A comparison over folds of its domain: a plan per fold, the folds' files, and the evaluations of all folds together.

A fold's plan is the comparison itself, trained on the rows outside of the fold and evaluated on those in it; its
artefacts have the fold's number in front (`f1-selected.s0`). Everything is made fold by fold, the selection too: the
rows of a fold are unknown to what is tested on them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

import store
from ntkcli.choices import OnError
from ntkcli.errors import UsageError
from ntkcli.paths import home
from ntkcli.progress import Progress
from ntkcli.statistics import group_seeds
from ntkcli.steps.evaluation.evaluate import summary
from ntkcli.steps.evaluation.folds import summarise_folds
from ntkcli.steps.evaluation.summary import EvaluateResult
from ntkcli.steps.pipelines.arms_plan import Plan
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.splits.files import write_all
from ntkcli.steps.splits.split import VERSION, Division, divide

TASK: Final = "domain"
"""The task whose items are the domain's rows, each in its fold."""
SEED: Final = 0
"""Of the division, as `ntksel split` has it by default."""


@dataclass(frozen=True, slots=True, eq=False)
class Folds:
    """A plan for each fold, and the rows (train, test) of its files."""

    plans: tuple[Plan, ...]
    files: tuple[tuple[Path, Path], ...]
    division: Division

    def write(self) -> None:
        """Write the files that are not there yet, with the store if there is none."""
        folder = self.files[0][0].parent
        open_store(self.plans[0].store, create=True)
        folder.parent.mkdir(exist_ok=True)
        found, contents = self.division, {}
        for number, (train, test) in enumerate(self.files):
            contents[train] = partial(found.lines, np.flatnonzero(found.side != number))
            contents[test] = partial(found.lines, np.flatnonzero(found.side == number))
        write_all(contents, force=True)


def divide_domain(
    plan: Plan, *, folds: int, by: str | None, baseline: str | None, domain_split: str | None, on_error: OnError,
    progress: Progress,
) -> Folds:  # fmt: skip
    """The folds of the plan's domain, as `ntksel split --folds` makes them; nothing is written.

    `plan` is fitted and has no task; `baseline` is as `Plan.reference` takes it.

    Raises:
        UsageError: too few rows or parts for this many folds, or no column `by`.
        DataError: rows that can't be read, unless `on_error` is "skip".
    """
    if folds < 2:
        raise UsageError(f"--folds {folds} is too few.", "Give 2 or more.")
    division = divide(
        plan.domain, shares=[1 / folds] * folds, by=by, seed=SEED, sort=True, columns=None, split_name=domain_split,
        on_error=on_error, progress=progress,
    )  # fmt: skip
    text = "|".join([str(VERSION), str(folds), str(by), *(digest.tobytes().hex() for digest in division.digests)])
    folder = Path(home(plan.store)) / "folds" / f"{folds}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    stems = [folder / f"domain.fold{i}of{folds}" for i in range(1, folds + 1)]
    files = tuple((Path(f"{stem}.train.jsonl"), Path(f"{stem}.test.jsonl")) for stem in stems)
    place = plan.names().index(plan.reference(baseline))
    return Folds(tuple(_plan_of(plan, i, *each, place) for i, each in enumerate(files, start=1)), files, division)


def _plan_of(plan: Plan, number: int, train: Path, test: Path, baseline: int) -> Plan:
    found = replace(
        plan,
        domain=str(train),
        tasks=(f"{TASK}={test}",),
        name=f"{plan.name}-f{number}",
        prefix=f"{plan.prefix}f{number}-",
        against=(str(test),),
        domain_data={key: value for key, value in plan.domain_data.items() if key != "split"},
    )
    return replace(found, evaluation={**plan.evaluation, "baseline": found.names()[baseline]})


def runs_of(plan: Plan, folds: Sequence[Plan]) -> dict[str, list[str]]:
    """Each run of the plan by its name without folds → its run in every fold; without folds the run itself."""
    return {run: list(own) for run, *own in zip(plan.runs(), *(each.runs() for each in folds or [plan]), strict=True)}


def evals_of(stored: store.Store, plan: Plan, folds: Sequence[Plan]) -> dict[str, list[store.Artefact]]:
    """Each run of the plan → its evaluation in every fold, or its only one."""
    names = [each.name for each in folds or [plan]]
    return {
        run: [stored.get(f"evals/{name}/{each}") for name, each in zip(names, own, strict=True)]
        for run, own in runs_of(plan, folds).items()
    }


def by_part(plan: Plan, folds: Sequence[Plan]) -> Iterator[tuple[Plan, list[Plan]]]:
    """The plan of each size with those of its folds."""
    parts = [each.parts() for each in folds]
    for i, part in enumerate(plan.parts()):
        yield part, [own[i] for own in parts]


def part_summary(
    stored: store.Store, part: Plan, folds: Sequence[Plan], *, baseline: str, arms: Sequence[str] = ()
) -> EvaluateResult:
    """What the evaluations of one size show, over all folds if there are any; of some `arms` alone if given."""
    wanted = [run for arm, own in group_seeds(part.runs()).items() if not arms or arm in arms for run in own.values()]
    if not folds:
        return summary(stored.path, name=part.name, runs=wanted, baseline=baseline)
    evals = evals_of(stored, part, folds)
    return summarise_folds({run: evals[run] for run in wanted}, name=part.name, baseline=baseline)
