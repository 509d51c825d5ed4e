"""What a finished validation shows: dose and response, LDS, oracle, power, and sentences. Pure numpy.

Legend: J runs, I items, S seeds, K bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ntkcli.statistics import AVERAGE
from ntkcli.statistics import validation as statistics
from ntkcli.statistics.correlation import spearman
from ntkcli.statistics.validation import PairedRuns
from ntkcli.steps.validation.measures import Curve, Floats, Measures, Power
from ntkcli.steps.validation.plan import BASE, BIN, DOMAIN, ORACLE, RANDOM, SUBSETS
from ntkcli.steps.validation.wording import sentences


@dataclass(frozen=True, slots=True)
class ScoreFinding:
    """One score on one task. `lds` with its 95% interval is NaN without subsets; `slope` (nats that the loss rises by
    from the best bin to the worst) with its interval, `rank_correlation` and `p` (permutation test of the slope) are
    NaN without bins.
    """

    score: str
    task: str
    lds: float
    lds_low: float
    lds_high: float
    slope: float
    slope_low: float
    slope_high: float
    rank_correlation: float
    p: float


@dataclass(frozen=True, slots=True)
class OracleFinding:
    """The oracle's mean loss minus that of random rows (nats; negative: the oracle is better), with its interval."""

    task: str
    minus_random: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ValidateResult:
    """What `ntksel validate --json` prints."""

    scores: tuple[ScoreFinding, ...]
    oracle: tuple[OracleFinding, ...] | None
    runs: int
    diverged: int
    power: Power
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Validation:
    """The result, what is drawn of it, and the mean loss of what every seed shares, by task and condition."""

    result: ValidateResult
    curves: tuple[Curve, ...]
    levels: dict[str, dict[str, float]]


def summarise(measures: Measures) -> Validation:
    """Everything that the runs show. A run that diverged counts as the worst there is."""
    losses = statistics.worst_for_diverged(measures.nats)
    where = {task: np.flatnonzero(measures.task == i) for i, task in enumerate(measures.tasks)}
    by_task = {task: losses[:, own] for task, own in where.items()}
    if len(by_task) > 1:
        by_task[AVERAGE] = _average(list(by_task.values()))
    curves = [_curve(measures, s, task, own) for s in range(len(measures.names)) for task, own in by_task.items()]
    overall = list(by_task)[-1]
    oracle = {task: found for task, own in by_task.items() if (found := _oracle(measures, own)) is not None}
    power = power_of(
        _spread(measures, by_task[overall]),
        n_bins=len(measures.edges),
        n_seeds=len(np.unique(measures.seed[measures.of(RANDOM)])),
        n_subsets=int(measures.of(*SUBSETS).sum()),
    )
    levels = {
        task: {
            kind: float(own[measures.of(kind)].mean())
            for kind in (BASE, DOMAIN, RANDOM, ORACLE)
            if measures.of(kind).any()
        }
        for task, own in by_task.items()
    }
    return Validation(
        ValidateResult(
            scores=tuple(map(_finding, curves)),
            oracle=tuple(OracleFinding(task, o.value, o.low, o.high) for task, o in oracle.items()) or None,
            runs=len(measures.design),
            diverged=int(measures.diverged.sum()),
            power=power,
            sentences=tuple(sentences(measures, curves, oracle, power, by_task)),
        ),
        tuple(curves),
        levels,
    )


def power_of(spread: float, *, n_bins: int, n_seeds: int, n_subsets: int) -> Power:
    """What these sizes can show, given the spread between seeds (NaN: not known yet)."""
    known = math.isfinite(spread)
    return Power(
        spread=spread if known else None,
        slope=statistics.detectable_slope(spread, n_bins, n_seeds) if known and n_bins else None,
        difference=statistics.detectable_difference(spread, n_seeds) if known else None,
        lds=statistics.detectable_lds(n_subsets) if n_subsets else None,
    )


def spread_of(measures: Measures) -> float:
    """The spread between seeds of runs that differ in nothing else, on the mean over tasks; NaN: not known yet."""
    losses = [measures.nats[:, measures.task == i] for i in range(len(measures.tasks))]
    return _spread(measures, losses[0] if len(losses) == 1 else _average(losses))


def _spread(measures: Measures, losses_JI: Floats) -> float:
    trained = measures.of(DOMAIN, RANDOM, ORACLE, BIN) & ~measures.diverged
    keys = np.stack([measures.design, measures.score, measures.bin], axis=1)[trained]
    if not len(keys):
        return math.nan
    conditions = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    return statistics.spread_between_seeds(conditions.astype(np.int64), losses_JI[trained].mean(axis=1))


def _average(losses: Sequence[Floats]) -> Floats:
    """Items of all tasks, weighted so that their mean is the mean of the tasks' means."""
    total = sum(own.shape[1] for own in losses)
    return np.concatenate([own * (total / (len(losses) * own.shape[1])) for own in losses], axis=1)


def _curve(measures: Measures, s: int, task: str, losses_JI: Floats) -> Curve:
    own = measures.of(BIN) & (measures.score == s)
    dose = statistics.dose_response(measures.bin[own], measures.seed[own], losses_JI[own]) if own.any() else None
    subsets = measures.of(*SUBSETS)
    lds, by_design = None, {}
    if subsets.any():
        loss_J = np.where(measures.diverged, np.inf, losses_JI.mean(axis=1))
        lds = statistics.linear_datamodeling_score(measures.sums[subsets, s], loss_J[subsets])
        for kind in SUBSETS:
            of_kind = measures.of(kind)
            by_design[kind] = spearman(
                measures.sums[of_kind, s], -np.where(np.isfinite(loss_J), loss_J, np.inf)[of_kind]
            )
    return Curve(measures.names[s], task, measures.edges, dose, lds, by_design)


def _finding(curve: Curve) -> ScoreFinding:
    dose, lds, nothing = curve.dose, curve.lds, (math.nan,) * 3
    return ScoreFinding(
        curve.score,
        curve.task,
        *((lds.value, lds.low, lds.high) if lds else nothing),
        *((dose.slope, dose.slope_low, dose.slope_high) if dose else nothing),
        rank_correlation=dose.rank_correlation if dose else math.nan,
        p=dose.p if dose else math.nan,
    )


def _oracle(measures: Measures, losses_JI: Floats) -> PairedRuns | None:
    if not measures.of(ORACLE).any():
        return None
    return statistics.paired_difference(losses_JI[measures.of(ORACLE)], losses_JI[measures.of(RANDOM)])


def as_document(found: Validation) -> dict[str, Any]:
    """All of it, for an export as JSON."""
    return {**asdict(found.result), "curves": [asdict(curve) for curve in found.curves], "levels": found.levels}
