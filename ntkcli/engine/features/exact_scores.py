"""The exact score: s_j = mean_k <grad f_k(x_j), mean_i grad f_k(x_i)>, the domain's mean gradient held whole.

No projection takes part, so every one can be judged by it. The price is the pass over the pool that the features cost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ntkcli.data.encoding import Encoded
from ntkcli.engine.features.extract import (
    GradientSettings,
    adapted_layers,
    gradient_footprint,
    make_probes,
    token_budget,
)
from ntkcli.engine.gradients.projections import AgainstMean
from ntkcli.engine.gradients.row_gradients import GradientEngine
from ntkcli.engine.memory import run_batches
from ntkcli.engine.models.loading import LoadedModel
from ntkcli.engine.rope import length_classes
from ntkcli.identity import AdapterIdentity, ModelIdentity

_Numbers = NDArray[np.float64]


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
        self._learned = 0

    def learn(self, rows: Sequence[Encoded]) -> list[int]:
        """Add domain rows to the mean; returns those left out of it, because their gradient is not finite.

        Raises:
            DoesNotFitError: a row does not fit in memory; `row` is its place in `rows`.
        """
        self._mean.collecting = True
        again: list[int] = []

        def compute(where: NDArray[np.int64]) -> None:
            self._mean.forget()  # what a batch left behind that ran out of memory
            if np.isfinite(self._products(rows, where)[1]).all():
                self._mean.keep()
                self._learned += len(where)
            else:
                again.extend(where.tolist())

        run_batches([len(row) for row in rows], self.budget, compute, self._classes)
        mixed, again = sorted(again), []
        for i in mixed:  # of a batch with a row that is not finite: one by one, without padding
            compute(np.array([i]))
        self._mean.forget()
        return again

    def score(self, rows: Sequence[Encoded]) -> NDArray[np.float64]:
        """The scores of pool rows (n,) float64; NaN where the gradient or the score is not finite.

        Raises:
            DoesNotFitError: a row does not fit in memory; `row` is its place in `rows`.
        """
        self._mean.collecting = False
        scores, padded = np.full(len(rows), np.nan), np.zeros(len(rows), dtype=np.bool_)

        def compute(where: NDArray[np.int64]) -> None:
            found, norms = self._products(rows, where)
            found /= len(self._probes) * max(1, self._learned)
            scores[where] = np.where(np.isfinite(found) & np.isfinite(norms), found, np.nan)
            padded[where] = [len(rows[i]) < len(rows[where[0]]) for i in where]

        run_batches([len(row) for row in rows], self.budget, compute, self._classes)
        for i in np.flatnonzero(np.isnan(scores) & padded):  # padding may be to blame
            compute(np.array([i]))
        return scores

    def _products(self, rows: Sequence[Encoded], where: NDArray[np.int64]) -> tuple[_Numbers, _Numbers]:
        """Of some rows (b,): the products with the mean, summed over probes, and the squared norms.

        While collecting, the gradients are in the batch's sums afterwards.
        """
        found, squares = np.zeros(len(where)), np.zeros(len(where))
        batch = [rows[i] for i in where]
        self._mean.probe = 0
        for k, (part_B1, part_BL) in enumerate(self._engine.each_probe(batch, positions=self._positions)):
            # The mean was summed without the probe's scale, which each side of a dot product has once.
            found += part_B1[:, 0].double().cpu().numpy() * self._probes[k].scale
            squares += part_BL.double().sum(dim=1).cpu().numpy()
            self._mean.probe = k + 1
        return found, squares
