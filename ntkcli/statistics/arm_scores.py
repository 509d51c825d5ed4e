"""What is known of an arm on a task: its value, and its difference from the baseline."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """An arm minus the baseline: value, 95% interval, two-sided p, p after Holm's correction over the arms compared.

    p is McNemar's exact test where both have one seed and right-or-wrong items, else the bootstrap's: see `test`.
    """

    value: float
    low: float
    high: float
    p: float
    p_holm: float
    test: str


@dataclass(frozen=True, slots=True)
class ArmScore:
    """An arm on a task, or on their `average`: the mean over seeds, its 95% interval, and the seeds' own values.

    `spread` is the standard deviation between seeds (n - 1), None for one seed; `n` counts items; `difference` is None
    for the baseline.
    """

    arm: str
    task: str
    value: float
    low: float
    high: float
    n: int
    seeds: dict[str, float]
    spread: float | None
    difference: Difference | None
    higher_is_better: bool = True
    percent: bool = True
    unit: str = ""
