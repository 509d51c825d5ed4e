"""What a diagnosis found: figures with intervals and a sentence each, and what can be drawn of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import store

BINS = 40


@dataclass(frozen=True, slots=True)
class Check:
    """One figure with its 95% interval, and what it means.

    `name`: the diagnosis; `subject`: of what in it (a score, a probe, a run). `details`: further figures.
    """

    name: str
    subject: str
    value: float
    low: float
    high: float
    sentence: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a panel: y over x, with a 95% interval at each point where `lows` and `highs` are given."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    lows: Sequence[float] = ()
    highs: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class Lines:
    """A panel with lines; `log_x`: the x axis is logarithmic."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    log_x: bool = False


@dataclass(frozen=True, slots=True)
class Points:
    """A panel with a value and an interval for each label; `mark`: a value to compare with."""

    title: str
    y: str
    labels: Sequence[str]
    values: Sequence[float]
    lows: Sequence[float]
    highs: Sequence[float]
    mark: float | None = None


@dataclass(frozen=True, slots=True)
class Distributions:
    """A panel with a histogram for each label, over the same bins between `edges`, and a line at `cut`."""

    title: str
    x: str
    labels: Sequence[str]
    edges: Sequence[float]
    densities: Sequence[Sequence[float]]
    cut: float


Panel = Lines | Points | Distributions


def distributions(title: str, x: str, samples: Mapping[str, Sequence[float]], *, cut: float) -> Distributions:
    """A panel of samples by label, in bins that span all of them."""
    edges = np.histogram_bin_edges([value for sample in samples.values() for value in sample], bins=BINS)
    densities = [np.histogram(sample, edges, density=True)[0].tolist() for sample in samples.values()]
    return Distributions(title, x, list(samples), edges.tolist(), densities, cut)


@dataclass(frozen=True, slots=True)
class Finding:
    """The checks of one diagnosis, its panels, and how many rows were left out because they can't be used.

    `basis`: all that decides its figures, but for `parents`, artefacts that they were read from. `left_out`: what could
    not be checked, and why.
    """

    checks: tuple[Check, ...]
    panels: tuple[Panel, ...]
    basis: Mapping[str, Any]
    parents: Sequence[store.Artefact] = ()
    skipped: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a diagnosis takes: rows and tokens to compute, backward passes over each row, seconds; 0: no model runs."""

    name: str
    rows: int
    tokens: int
    passes: int
    seconds: float

    def __str__(self) -> str:
        if not self.rows:
            return f"{self.name}: reads what is stored, no model runs"
        passes = f", {self.passes:,} backward pass{'es' * (self.passes > 1)} of each" if self.passes else ""
        time = f"{self.seconds / 60:.0f} minutes" if self.seconds >= 120 else f"{self.seconds:.0f} seconds"
        return f"{self.name}: {self.rows:,} rows of {self.tokens:,} tokens{passes}, about {time}"
