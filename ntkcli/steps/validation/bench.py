"""One base model in memory: train an adapter on rows, measure it on the test items, take it off again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ntkcli.data import Encoded, Row
from ntkcli.errors import NtkselError
from ntkcli.identity import ModelIdentity
from ntkcli.progress import Progress
from ntkcli.steps.evaluation.items import Items
from ntkcli.steps.evaluation.scorers import encode_item
from ntkcli.steps.training.one_base import OneBase, last_loss

if TYPE_CHECKING:
    from ntkcli.engine.evaluation.evaluator import Evaluator
    from ntkcli.engine.training.train import TrainingOptions
    from ntkcli.engine.training.trainer import Step


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What one run leaves: `nats`, `correct` per item (I,), tokens trained on, and the mean loss of the last tenth.

    `nats` is NaN where the training diverged. `steps` are those taken.
    """

    nats: NDArray[np.float64]
    correct: NDArray[np.bool_]
    tokens: int = 0
    last_loss: float = float("nan")
    diverged: bool = False
    steps: tuple[Any, ...] = ()


Keep = Callable[[Path, Measured], None]
"""Takes the folder of a trained adapter before it is removed."""


class Trainer(Protocol):
    """Trains on rows from one seed and measures; without rows it measures the model as it is."""

    def __call__(self, rows: Sequence[Encoded], names: Sequence[str], *, seed: int, keep: Keep | None) -> Measured:
        """The measures of the model trained on these rows, or of the bare model if there are none."""


class Bench:
    """The `Trainer` that trains. The base model is the same bytes for every run."""

    def __init__(
        self, evaluator: Evaluator, identity: ModelIdentity, items: Items, options: TrainingOptions,
        work: Callable[[], Path], progress: Progress,
    ) -> None:  # fmt: skip
        self._base, self._items = OneBase(evaluator, identity, work, progress), items
        self._options, self._progress = options, progress
        self._encoded = [encode_item(items, i, evaluator.encoder)[1] for i in range(len(items.rows))]

    def __call__(self, rows: Sequence[Encoded], names: Sequence[str], *, seed: int, keep: Keep | None) -> Measured:
        """The measures of the model trained on these rows, or of the bare model if there are none."""
        if rows:
            return self._train(rows, names, seed, keep)
        bare = self._base.bare(self._measure)
        if not np.isfinite(bare.nats).all():
            raise NtkselError("The test items' likelihoods are not finite before training.", "Give --dtype float32.")
        return bare

    def _train(self, rows: Sequence[Encoded], names: Sequence[str], seed: int, keep: Keep | None) -> Measured:
        from ntkcli.engine.training.trainer import TrainingRows

        def measure(folder: Path, steps: Sequence[Step]) -> Measured | None:
            found = self._measure()
            if not np.isfinite(found.nats).all():
                return None
            tokens = sum(step.tokens for step in steps)
            found = replace(found, tokens=tokens, last_loss=last_loss(steps), steps=tuple(steps))
            if keep is not None:
                keep(folder, found)
            return found

        trained = self._base.trained(TrainingRows(rows, names), replace(self._options, seed=seed), measure)
        if trained.found is not None:
            return trained.found
        why = trained.why or "the test items' likelihoods are not finite"
        self._progress.note(f"diverged, and counts as the worst: {why}")
        n = len(self._items.rows)
        return Measured(np.full(n, np.nan), np.zeros(n, np.bool_), trained.tokens, float("nan"), diverged=True)

    def _measure(self) -> Measured:
        """Nats of the right choice among the choices, or per token of the answer; and if it is the likeliest."""
        nats = np.full(len(self._encoded), np.nan)
        correct = np.zeros(len(self._encoded), dtype=np.bool_)
        for i, sums in enumerate(self._base.evaluator.logliks(self._encoded)):
            row = self._items.rows[i]
            if self._items.scorer(i) == "choices" and isinstance(row, Row) and row.answer is not None:
                nats[i] = choice_nats(sums, row.answer)
                correct[i] = np.isfinite(sums).all() and int(np.argmax(sums)) == row.answer
            else:
                nats[i] = -float(sums[0]) / int(self._encoded[i][0].supervised.sum())
        return Measured(nats, correct)


def choice_nats(sums: NDArray[np.float64], answer: int) -> float:
    """-log of the right choice's share of the choices' likelihoods: log softmax over their log-likelihoods."""
    top = float(sums.max())
    return float(np.log(np.exp(sums - top).sum()) + top - sums[answer])
