"""One base model in memory: train an adapter on rows, measure under it, take it off again.

Knows nothing of what is measured.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from ntkcli.errors import DivergedError
from ntkcli.identity import AdapterIdentity, ModelIdentity
from ntkcli.progress import Progress

if TYPE_CHECKING:
    from ntkcli.engine.evaluation.evaluator import Evaluator
    from ntkcli.engine.training.train import TrainingOptions
    from ntkcli.engine.training.trainer import Step, TrainingRows

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Trained(Generic[Found]):
    """A training's steps and what was measured after it; `found` is None and `why` says how, if it diverged."""

    steps: tuple[Step, ...]
    found: Found | None
    why: str = ""

    @property
    def tokens(self) -> int:
        """Tokens trained on."""
        return sum(step.tokens for step in self.steps)


def last_loss(steps: Sequence[Step]) -> float:
    """Mean loss of the last tenth of the steps."""
    return float(np.mean([step.loss for step in steps[-max(1, len(steps) // 10) :]]))


class OneBase:
    """Trains and takes off; the base model is the same bytes for every training. `work` gives fresh paths of tmp/."""

    def __init__(
        self, evaluator: Evaluator, identity: ModelIdentity, work: Callable[[], Path], progress: Progress
    ) -> None:
        self.evaluator, self._identity = evaluator, identity
        self._work, self._progress = work, progress

    def bare(self, measure: Callable[[], Found]) -> Found:
        """What is measured of the model without an adapter."""
        self.evaluator.use(None, self._identity)
        return measure()

    def trained(
        self, data: TrainingRows, options: TrainingOptions, measure: Callable[[Path, Sequence[Step]], Found]
    ) -> Trained[Found]:
        """Train on the rows, then measure under the adapter: `measure` gets its folder, which goes afterwards, and the
        steps taken.
        """
        folder = self._work()
        folder.mkdir()
        try:
            steps, why = self._train(data, options, folder)
            if why:
                return Trained(tuple(steps), None, why)
            self.evaluator.use(AdapterIdentity(folder, {}, None), self._identity)
            try:
                return Trained(tuple(steps), measure(folder, steps))
            finally:
                self.evaluator.use(None, self._identity)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _train(self, data: TrainingRows, options: TrainingOptions, folder: Path) -> tuple[list[Step], str]:
        from ntkcli.engine.training.train import train_adapter

        steps: list[Step] = []

        def on_step(step: Step) -> None:
            steps.append(step)
            os.utime(folder)  # an entry of the store's tmp/ lives as long as it is touched

        loaded = self.evaluator.bare(self._identity)
        try:
            train_adapter(
                loaded,
                data,
                options=options,
                folder=folder,
                on_step=on_step,
                progress=_Within(self._progress),
                resume_at_most=0,
            )
        except DivergedError as error:
            return steps, error.what
        finally:
            self.evaluator.restore(self._identity)
        return steps, ""


class _Within:
    """The progress of one training within a bar that counts runs: tokens and notes pass, steps do not."""

    def __init__(self, outer: Progress) -> None:
        self._outer = outer

    def start(self, label: str, *, total: int, unit: str, done: int = 0) -> None:
        """Nothing is shown."""

    def advance(self, count: int, *, tokens: int = 0, note: str = "") -> None:
        """Tokens count, steps don't."""
        del count
        self._outer.advance(0, tokens=tokens, note=note)

    def stop(self) -> None:
        """Nothing is shown."""

    def note(self, text: str) -> None:
        """Passed on."""
        self._outer.note(text)
