"""What each round of the arm `rounds` chose, and how much of it one choice at once has too. Reads the store only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

import store
from ntkcli.steps.pipelines.arms_plan import Plan, probe_suffix


@dataclass(frozen=True, slots=True)
class RoundRows:
    """The rows of one round: how many, and how many of them are in `selected` too (None without that arm).

    `adapter` is the run whose features chose them; `fold` and `size` are those of the comparison, None where it has
    one.
    """

    number: int
    rows: int
    also_selected: int | None
    adapter: str
    size: int | None = None
    fold: int | None = None


def chosen_by_round(stored: store.Store, plan: Plan, folds: Sequence[Plan] = ()) -> Iterator[RoundRows]:
    """Every round of every size and fold; nothing if the arm is not among those compared."""
    if "rounds" not in plan.arms:
        return
    for fold, own in enumerate(folds or [plan], start=1):
        for part in own.parts():
            yield from _rounds(stored, part, fold if folds else None)


def _rounds(stored: store.Store, part: Plan, fold: int | None) -> Iterator[RoundRows]:
    prefix, label = part.prefix, part.label
    picked = None
    if "selected" in part.arms:
        picked = stored.get(f"selections/{prefix}picked{probe_suffix(part.probes[0])}{label}").read("row")
    for number in range(1, (part.rounds or 0) + 1):
        rows = stored.get(f"selections/{prefix}round{number}{label}").read("row")
        shared = None if picked is None else int(np.isin(rows, picked).sum())
        adapter = f"{prefix}warmup" if number == 1 else f"{prefix}after-round{number - 1}{label}"
        yield RoundRows(number, len(rows), shared, adapter, part.size, fold)


def round_sentences(plan: Plan, rounds: Sequence[RoundRows]) -> Iterator[str]:
    """How far choosing in rounds leads away from choosing at once, by size."""
    for part in plan.parts():
        own = [one for one in rounds if one.size == part.size]
        if not own or any(one.also_selected is None for one in own):
            continue
        total, shared = sum(one.rows for one in own), sum(one.also_selected or 0 for one in own)
        by_round = []
        for number in range(1, (part.rounds or 0) + 1):
            same = [one for one in own if one.number == number]
            by_round.append(f"{sum(one.also_selected or 0 for one in same)} of {sum(one.rows for one in same)}")
        yield (
            f"{part.name_of('rounds')}: {shared} of the {total} rows chosen in {part.rounds} rounds are also in "
            f"{part.name_of(part.chosen[0])} (by round: {', '.join(by_round)})."
        )
