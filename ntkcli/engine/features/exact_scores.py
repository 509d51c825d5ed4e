"""The exact score: s_j = mean_k <grad f_k(x_j), mean_i grad f_k(x_i)>, the domain's mean gradient held whole.

No projection takes part, so every one can be judged by it. The price is the pass over the pool that the features cost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntkcli.data.encoding import Encoded
from ntkcli.engine.features.extract import (
    GradientSettings,
    adapted_layers,
    gradient_footprint,
    make_probes,
    smallest_row,
    token_budget,
)
from ntkcli.engine.gradients.projections import AgainstMean
from ntkcli.engine.gradients.row_gradients import GradientEngine
from ntkcli.engine.memory import run_batches
from ntkcli.engine.models.loading import LoadedModel
from ntkcli.engine.rope import length_classes
from ntkcli.engine.transfers import Outbox, Parcel
from ntkcli.identity import AdapterIdentity, ModelIdentity


class ExactScorer:
    """First given the domain (`learn`), then any pool rows (`score`). Memory: P float32 numbers a probe."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        model: ModelIdentity,
        adapter: AdapterIdentity | None,
        settings: GradientSettings,
        batch_tokens: int | None = None,
    ) -> None:
        layers = adapted_layers(loaded, model=model, adapter=adapter, settings=settings)
        self._mean = AgainstMean(loaded.device)
        self._probes = make_probes(loaded, settings)
        self._engine = GradientEngine(loaded, layers, projection=self._mean, probes=self._probes)
        self._positions = "targets" if settings.kind == "loss" else settings.positions
        self.budget = token_budget(loaded, gradient_footprint(loaded, layers, self._mean.dim), batch_tokens)
        self._classes = length_classes(loaded.model.config)
        self._device, self._outbox = loaded.device, Outbox(loaded.device)
        self._lockstep = loaded.lockstep
        self._learned = 0

    def learn(self, rows: Sequence[Encoded]) -> list[int]:
        """Add domain rows to the mean; returns those left out of it, because their gradient is not finite.

        Raises:
            DoesNotFitError: a row does not fit in memory; `row` is its place in `rows`.
        """
        self._mean.collecting = True
        again: list[int] = []

        def compute(where: NDArray[np.int64]) -> Parcel:
            self._mean.forget()  # what a batch left behind that ran out of memory
            finite = torch.isfinite(self._products(rows, where)[1]).all()
            parcel = self._outbox.send([finite])
            self._mean.keep(finite)  # takes no memory, so that it is done whole
            return parcel

        def read(where: NDArray[np.int64], values: list[NDArray[Any]]) -> None:
            if values[0]:
                self._learned += len(where)
            else:
                again.extend(where.tolist())

        self._run(rows, compute, read)
        mixed, again = sorted(again), []
        for i in mixed:  # of a batch with a row that is not finite: one by one, without padding
            read(np.array([i]), compute(np.array([i])).take())
        self._mean.forget()
        return again

    def score(self, rows: Sequence[Encoded]) -> NDArray[np.float64]:
        """The scores of pool rows (n,) float64; NaN where the gradient or the score is not finite.

        Raises:
            DoesNotFitError: a row does not fit in memory; `row` is its place in `rows`.
        """
        self._mean.collecting = False
        scores, padded = np.full(len(rows), np.nan), np.zeros(len(rows), dtype=np.bool_)

        def compute(where: NDArray[np.int64]) -> Parcel:
            padded[where] = [len(rows[i]) < len(rows[where[0]]) for i in where]
            return self._outbox.send(self._products(rows, where))

        def read(where: NDArray[np.int64], values: list[NDArray[Any]]) -> None:
            found, norms = values[0] / (len(self._probes) * max(1, self._learned)), values[1]
            scores[where] = np.where(np.isfinite(found) & np.isfinite(norms), found, np.nan)

        self._run(rows, compute, read)
        for i in np.flatnonzero(np.isnan(scores) & padded):  # padding may be to blame
            read(np.array([i]), compute(np.array([i])).take())
        return scores

    def end(self) -> None:
        """Called when all is scored: processes that share the model may still need this one to compute."""
        self._mean.collecting = False
        self._lockstep.finish(lambda: self._backwards([smallest_row()]))

    def _run(
        self,
        rows: Sequence[Encoded],
        compute: Callable[[NDArray[np.int64]], Parcel],
        read: Callable[[NDArray[np.int64], list[NDArray[Any]]], None],
    ) -> None:
        """Compute all batches; each is read after the next one was handed to the device, which so never waits."""
        sent: deque[tuple[NDArray[np.int64], Parcel]] = deque()

        def step(where: NDArray[np.int64]) -> None:
            sent.append((where, compute(where)))
            while len(sent) > 1:
                before, parcel = sent[0]
                read(before, parcel.take())
                sent.popleft()

        run_batches([len(row) for row in rows], self.budget, step, self._classes)
        for where, parcel in sent:
            read(where, parcel.take())

    def _products(self, rows: Sequence[Encoded], where: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Of some rows (B,) float64: the products with the mean, summed over probes, and the squared norms.

        While collecting, the gradients are in the batch's sums afterwards.
        """
        with self._lockstep.turn():
            return self._backwards([rows[i] for i in where])

    def _backwards(self, batch: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """`_products` of these rows."""
        found_B, squares_B = torch.zeros(2, len(batch), dtype=torch.float64, device=self._device)
        self._mean.probe = 0
        for k, (part_B1, part_BL) in enumerate(self._engine.each_probe(batch, positions=self._positions)):
            # The mean was summed without the probe's scale, which each side of a dot product has once.
            found_B += part_B1[:, 0].double() * self._probes[k].scale
            squares_B += part_BL.double().sum(dim=1)
            self._mean.probe = k + 1
        return found_B, squares_B
