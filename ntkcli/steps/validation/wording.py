"""The sentences of a validation: what each score is worth, whether any could be, and what the sizes can show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ntkcli.statistics.learning import by_heart, not_learnt, seeds_differ_more
from ntkcli.statistics.sentences import LEVEL
from ntkcli.statistics.validation import PairedRuns, subsets_for
from ntkcli.steps.validation.measures import Curve, Floats, Measures, Power
from ntkcli.steps.validation.plan import BASE, BIN, DOMAIN, ORACLE, RANDOM

_SHARED = {
    DOMAIN: "The domain alone",
    RANDOM: "The domain with random rows",
    ORACLE: "The domain with the oracle's rows",
}
UNLIKE_TOKENS = 1.1
"""Tokens of a score's largest bin over its smallest, above which lengths may be what the slope shows."""


def sentences(
    measures: Measures, curves: Sequence[Curve], oracle: Mapping[str, PairedRuns], power: Power,
    by_task: Mapping[str, Floats],
) -> Iterator[str]:  # fmt: skip
    """The most important first: the oracle, the scores, the power, and what went wrong."""
    for task, found in oracle.items():
        yield _oracle(found, task)
    for curve in curves:
        if curve.dose is not None:
            yield _slope(curve)
        if curve.lds is not None:
            yield _lds(curve)
    if measures.knowing:
        yield (
            f"{', '.join(measures.knowing)} {'were' if len(measures.knowing) > 1 else 'was'} made from all rows of the "
            "domain, those of the fold under test too: compare scores that were made in one way, and take the gain of "
            "rows by them over random rows as an upper bound."
        )
    yield from power_sentences(power)
    if n := int(measures.diverged.sum()):
        yield (
            f"{n} of {len(measures.design)} runs diverged and count as the worst. Lower --lr, or give --dtype "
            "float32, and another --name."
        )
    yield from _lengths(measures)
    yield from _learning(measures, by_task)


def power_sentences(power: Power) -> Iterator[str]:
    """What these sizes show in four cases of five."""
    if power.spread is None:
        yield "How large a difference these sizes can show is not known yet: it takes runs of two seeds or more."
    elif power.slope is not None:
        yield (
            f"These sizes show a slope of {power.slope:.3f} nats or more in four cases of five; a run's loss has a "
            f"standard deviation of {power.spread:.3f} between seeds."
        )
    else:
        yield f"These sizes show a difference of {power.difference:.3f} nats or more in four cases of five."
    if power.lds is not None:
        yield (
            f"These subsets show an LDS of {power.lds:.2f} or more in four cases of five; one of 0.2 takes "
            f"{subsets_for(0.2)} subsets."
        )


def _oracle(found: PairedRuns, task: str) -> str:
    ends = f"95% {found.low:+.3f} to {found.high:+.3f}"
    if found.high < 0:
        return f"The oracle's rows lower the loss on {task} by {-found.value:.3f} nats against random rows ({ends})."
    return (
        f"No score could show a gain on {task}: the oracle does not beat random rows ({found.value:+.3f} nats, "
        f"{ends}). Check the oracle's rows, or give more --rows, more --seeds, or another --lr."
    )


def _slope(curve: Curve) -> str:
    assert curve.dose is not None  # noqa: S101  # the caller's condition, for mypy
    dose, score, task = curve.dose, curve.score, curve.task
    ends = f"95% {dose.slope_low:+.3f} to {dose.slope_high:+.3f}, p {dose.p:.3f}"
    shown = dose.p <= LEVEL and (dose.slope_low > 0 or dose.slope_high < 0)
    if not shown:
        return (
            f"No difference shown on {task} between the rows that {score} likes best and those it likes least: "
            f"{dose.slope:+.3f} nats ({ends})."
        )
    if dose.slope > 0:
        return (
            f"The rows that {score} likes best lower the loss on {task} by {dose.slope:.3f} nats more than those it "
            f"likes least ({ends})."
        )
    return (
        f"{score} is the wrong way round on {task}: the rows it likes least lower the loss by {-dose.slope:.3f} nats "
        f"more than those it likes best ({ends})."
    )


def _lds(curve: Curve) -> str:
    assert curve.lds is not None  # noqa: S101  # the caller's condition, for mypy
    lds = curve.lds
    ends = f"LDS {lds.value:+.2f}, 95% {lds.low:+.2f} to {lds.high:+.2f}, p {lds.p:.3f}"
    if lds.p > LEVEL or lds.low <= 0 <= lds.high:
        return f"Sums of {curve.score} are not shown to predict the loss on {curve.task} ({ends})."
    verb = "predict" if lds.value > 0 else "predict the opposite of"
    return f"Sums of {curve.score} over random subsets {verb} their loss on {curve.task} ({ends})."


def _lengths(measures: Measures) -> Iterator[str]:
    for s, name in enumerate(measures.names):
        own = measures.of(BIN) & (measures.score == s) & ~measures.diverged
        tokens = [measures.tokens[own & (measures.bin == b)].mean() for b in np.unique(measures.bin[own])]
        if tokens and max(tokens) > UNLIKE_TOKENS * min(tokens):
            yield (
                f"The bins of {name} differ in tokens by {100 * (max(tokens) / min(tokens) - 1):.0f}%: it follows the "
                "rows' length, and too few rows of similar length are left. Give fewer --rows or wider --bins."
            )


def _learning(measures: Measures, by_task: Mapping[str, Floats]) -> Iterator[str]:
    """What runs learnt at all, by task; of what every seed shares, and of the bins."""
    for i, task in enumerate(measures.tasks):
        losses, shares = by_task[task], measures.shares[i]
        base = float(losses[measures.of(BASE)].mean())
        for kind, arm in _SHARED.items():
            own = measures.of(kind)
            if not own.any():
                continue
            trained = measures.last_loss[own & ~measures.diverged]
            last = float(trained.mean()) if len(trained) else np.inf
            said = not_learnt(arm, losses[own], shares, task=task) if np.isfinite(shares) else None
            if said := said or by_heart(arm, last, losses[own], base, task=task):
                yield said
        arms = {kind: losses[measures.of(kind)].mean(axis=1) for kind in _SHARED}
        for s, name in enumerate(measures.names):
            for b in range(len(measures.edges)):
                own = measures.of(BIN) & (measures.score == s) & (measures.bin == b)
                arms[f"{name} {b}"] = losses[own].mean(axis=1)
        if said := seeds_differ_more(arms, task=task):
            yield said
