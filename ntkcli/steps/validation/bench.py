"""One base model in memory: train an adapter on rows, measure it on the test items, take it off again."""

from __future__ import annotations

import math
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
from ntkcli.steps.evaluation.item_tokens import encode_item
from ntkcli.steps.evaluation.items import Items
from ntkcli.steps.training.one_base import OneBase, last_loss
from ntkcli.steps.training.settings import CHECKPOINTS

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


Where = NDArray[np.int64]
"""Positions of items, ascending."""
Judge = Sequence[tuple[Encoded, str]]
"""Rows held out, each with its name for messages."""
Keep = Callable[[Path, Measured], None]
"""Takes the folder of a trained adapter before it is removed."""


class Trainer(Protocol):
    """Trains on rows from one seed and measures; without rows it measures the model as it is."""

    def __call__(
        self, rows: Sequence[Encoded], names: Sequence[str], *, seed: int, keep: Keep | None, only: Where | None = None,
        held_out: Judge = (),
    ) -> Measured:  # fmt: skip
        """The measures of the model trained on these rows, or of the bare model if there are none.

        `only`: the items to measure; others are NaN. `held_out`: rows to judge by, whose lowest loss is kept.
        """


class Bench:
    """The `Trainer` that trains. The base model is the same bytes for every run."""

    def __init__(
        self, evaluator: Evaluator, identity: ModelIdentity, items: Items, options: TrainingOptions,
        work: Callable[[], Path], progress: Progress,
    ) -> None:  # fmt: skip
        self._base, self._items = OneBase(evaluator, identity, work, progress), items
        self._options, self._progress = options, progress
        self._encoded = [encode_item(items, i, evaluator.encoder)[1] for i in range(len(items.rows))]

    def __call__(
        self, rows: Sequence[Encoded], names: Sequence[str], *, seed: int, keep: Keep | None, only: Where | None = None,
        held_out: Judge = (),
    ) -> Measured:  # fmt: skip
        """The measures of the model trained on these rows, or of the bare model if there are none."""
        where = np.arange(len(self._encoded)) if only is None else only
        if rows:
            return self._train(rows, names, seed, keep, where, held_out)
        bare = self._base.bare(lambda: self._measure(where))
        if not np.isfinite(bare.nats[where]).all():
            raise NtkselError("The test items' likelihoods are not finite before training.", "Give --dtype float32.")
        return bare

    def _train(
        self, rows: Sequence[Encoded], names: Sequence[str], seed: int, keep: Keep | None, where: Where, held_out: Judge
    ) -> Measured:
        from ntkcli.engine.training.trainer import TrainingRows

        def measure(folder: Path, steps: Sequence[Step]) -> Measured | None:
            found = self._measure(where)
            if not np.isfinite(found.nats[where]).all():
                return None
            tokens = sum(step.tokens for step in steps)
            found = replace(found, tokens=tokens, last_loss=last_loss(steps), steps=tuple(steps))
            if keep is not None:
                keep(folder, found)
            return found

        options = replace(self._options, seed=seed)
        if held_out:  # a checkpoint judges, as often as `finetune` makes one
            options = replace(options, checkpoint_steps=max(1, math.ceil(self._steps_of(rows, options) / CHECKPOINTS)))
        data = TrainingRows(rows, names, [row for row, _ in held_out], [name for _, name in held_out])
        trained = self._base.trained(data, options, measure)
        if trained.found is not None:
            return trained.found
        why = trained.why or "the test items' likelihoods are not finite"
        self._progress.note(f"diverged, and counts as the worst: {why}")
        n = len(self._items.rows)
        return Measured(np.full(n, np.nan), np.zeros(n, np.bool_), trained.tokens, float("nan"), diverged=True)

    def _steps_of(self, rows: Sequence[Encoded], options: TrainingOptions) -> int:
        from ntkcli.engine.training.step_plan import plan_steps

        planned = plan_steps(
            list(map(len, rows)),
            batch_size=options.batch_size,
            seed=options.seed,
            epochs=options.epochs,
            max_tokens=options.max_tokens,
        )
        return len(planned)

    def _measure(self, where: Where) -> Measured:
        """Nats of the right choice among the choices, or per token of the answer; and if it is the likeliest."""
        nats = np.full(len(self._encoded), np.nan)
        correct = np.zeros(len(self._encoded), dtype=np.bool_)
        found = self._base.evaluator.logliks([self._encoded[i] for i in where])
        for i, sums in zip(where.tolist(), found, strict=True):
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
