"""What a comparison says, in plain words: who is better, by how much, how sure, from how many seeds."""

from __future__ import annotations

from ntkcli.statistics.arm_scores import ArmScore

NATS_OF_ITEMS = "nats"
"""The unit of log losses: nats of the right choice per item."""
LEVEL = 0.05
"""Of a corrected p above it, no difference is said to be shown."""


def sentence(score: ArmScore, baseline: str, *, several_tasks: bool) -> str:
    """ "mixed beats random by 3.1 points, 95% 0.4 to 5.8, 3 seeds.", or that no difference is shown.

    `score` must have a difference. It is shown if the interval leaves out 0 and Holm's p is at most 0.05.
    """
    difference = score.difference
    if difference is None:
        raise ValueError(f"{score.arm} is the baseline")
    better = difference.value > 0 if score.higher_is_better else difference.value < 0
    where = f" on {score.task}" if several_tasks else ""
    why = ""
    if difference.low > 0 or difference.high < 0:
        if difference.p_holm <= LEVEL:
            verb = "beats" if better else "is worse than"
            ends = " to ".join(_plain(score, end) for end in sorted((abs(difference.low), abs(difference.high))))
            amount = _plain(score, abs(difference.value)) + _unit(score)
            return f"{score.arm} {verb} {baseline}{where} by {amount}, 95% {ends}, {seeds_of(score)}."
        why = f", and p is {difference.p_holm:.2f} once corrected for the arms compared"
    ends = " to ".join(_signed(score, end) for end in (difference.low, difference.high))
    return (
        f"No difference shown between {score.arm} and {baseline}{where}: "
        f"{_signed(score, difference.value)}{_unit(score)}, 95% {ends}{why}, {seeds_of(score)}."
    )


def seeds_of(score: ArmScore) -> str:
    """ "3 seeds", or "1 seed", whose interval says nothing about other seeds."""
    return "1 seed" if len(score.seeds) == 1 else f"{len(score.seeds)} seeds"


def _unit(score: ArmScore) -> str:
    return " points" if score.percent else f" {score.unit}".rstrip()


def _plain(score: ArmScore, value: float) -> str:
    return f"{100 * value:.1f}" if score.percent else f"{value:.3f}"


def _signed(score: ArmScore, value: float) -> str:
    return f"{100 * value:+.1f}" if score.percent else f"{value:+.3f}"
