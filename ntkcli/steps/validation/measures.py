"""What the runs of a validation measured, as arrays, and what is computed of it for each score. Pure numpy.

Legend: J runs, I items.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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

    `shares`: for each task the loss of knowing the shares of its answers alone, NaN where it has no choices. `folds`
    (I,): the fold of each item, whose nats are of a training of its own; None without folds. `knowing`: the scores that
    were made from the rows of all folds.
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
    folds: Integers | None = None
    knowing: tuple[str, ...] = ()

    def of(self, *designs: str) -> NDArray[np.bool_]:
        """Which runs are of these designs, (J,)."""
        return np.isin(self.design, [DESIGNS.index(one) for one in designs])


def joined(arrays: Mapping[str, NDArray[Any]], item_folds: Integers | None) -> dict[str, NDArray[Any]]:
    """One line per run from one per run and fold, which stand together; as they are where `item_folds` is None.

    Each item's nats are those of its fold. Tokens and the last loss are means over folds; a run diverged if it did in
    any fold.
    """
    if item_folds is None:
        return dict(arrays)
    n = len(np.unique(item_folds))
    by_fold = {name: values.reshape(-1, n, *values.shape[1:]) for name, values in arrays.items() if name != "fold"}
    found = {name: values[:, 0] for name, values in by_fold.items()}
    for name in ("nats", "correct"):
        if name in by_fold:
            found[name] = by_fold[name][:, item_folds, np.arange(len(item_folds))]
    for name in ("tokens", "last_loss"):
        if name in by_fold:
            found[name] = by_fold[name].mean(axis=1).astype(by_fold[name].dtype)
    if "diverged" in by_fold:
        found["diverged"] = by_fold["diverged"].max(axis=1)
    return found


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
