"""What the runs of a validation measured, as arrays, and what is computed of it for each score. Pure numpy.

Legend: J runs, I items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ntkcli.statistics.validation import DoseResponse, Lds
from ntkcli.steps.validation.plan import DESIGNS

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Measures:
    """The runs of a validation: per run (J,) `design`, `score`, `bin`, `seed`, `tokens`, `last_loss`, `diverged`, its
    `sums` (J, scores) and the `nats` (J, I) of each item, whose `task` (I,) is a position in `tasks`.

    `shares`: for each task the loss of knowing the shares of its answers alone, NaN where it has no choices.
    """

    design: Integers
    score: Integers
    bin: Integers
    seed: Integers
    tokens: Integers
    last_loss: Floats
    diverged: NDArray[np.bool_]
    sums: Floats
    nats: Floats
    task: Integers
    tasks: tuple[str, ...]
    shares: tuple[float, ...]
    names: tuple[str, ...]
    edges: tuple[float, ...]

    def of(self, *designs: str) -> NDArray[np.bool_]:
        """Which runs are of these designs, (J,)."""
        return np.isin(self.design, [DESIGNS.index(one) for one in designs])


@dataclass(frozen=True, slots=True)
class Power:
    """What these sizes show in four cases of five, in nats (`lds`: as a correlation); None: not known or not asked.

    `spread`: standard deviation of a run's loss between seeds.
    """

    spread: float | None
    slope: float | None
    difference: float | None
    lds: float | None


@dataclass(frozen=True, slots=True)
class Curve:
    """One score on one task, for plots and exports: dose and response, and LDS, also by kind of subset."""

    score: str
    task: str
    edges: tuple[float, ...]
    dose: DoseResponse | None
    lds: Lds | None
    lds_by_design: dict[str, float]
