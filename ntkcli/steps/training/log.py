"""The log of a run in the store: one row per step, written part by part before the checkpoint that ends with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import store

if TYPE_CHECKING:
    from ntkcli.engine.training.trainer import Step

ARRAYS = {
    "loss": store.ArraySpec("float32"),
    "learning_rate": store.ArraySpec("float64"),
    "tokens": store.ArraySpec("int64"),
}


def arrays(*, held_out: bool) -> dict[str, store.ArraySpec]:
    """The arrays of a run."""
    return ARRAYS | {"held_out_loss": store.ArraySpec("float32")} if held_out else ARRAYS


class RunLog:
    """Takes steps in order and writes each part when it is full."""

    def __init__(self, artefact: store.Artefact) -> None:
        self._artefact = artefact
        self._steps: list[Step] = []

    def add(self, step: Step) -> None:
        """The next step, the first one after a checkpoint or the one after the last."""
        self._steps.append(step)
        part = step.number // self._artefact.part_rows
        if step.number + 1 == self._artefact.part_bounds(part)[1]:
            self._write(part, self._steps)
            self._steps = []

    def finish(self, taken: int) -> None:
        """Fill up the steps that an early stop after `taken` left out: no loss (NaN), no learning rate, 0 tokens."""
        from ntkcli.engine.training.trainer import Step

        for part in self._artefact.pending():
            numbers = range(*self._artefact.part_bounds(part))
            if numbers.start >= taken:
                self._write(part, [Step(number, math.nan, math.nan, 0) for number in numbers])

    def _write(self, part: int, steps: Sequence[Step]) -> None:
        rows: dict[str, NDArray[Any]] = {
            "loss": np.array([step.loss for step in steps], dtype=np.float32),
            "learning_rate": np.array([step.learning_rate for step in steps], dtype=np.float64),
            "tokens": np.array([step.tokens for step in steps], dtype=np.int64),
            "held_out_loss": np.array([step.held_out_loss for step in steps], dtype=np.float32),
        }
        self._artefact.write_part(part, {name: rows[name] for name in self._artefact.arrays})
