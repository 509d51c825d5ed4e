"""The exact score: s_j = mean_k <grad f_k(x_j), mean_i grad f_k(x_i)>, the domain's mean gradient held whole.

No projection takes part, so every one can be judged by it. The price is the pass over the pool that the features cost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ntkcli.data.encoding import Encoded
from ntkcli.engine.batches import plan_batches
from ntkcli.engine.features.extract import GradientSettings, adapted_layers, default_batch_tokens, make_probes
from ntkcli.engine.gradients.projections import AgainstMean
from ntkcli.engine.gradients.row_gradients import GradientEngine
from ntkcli.engine.models.loading import LoadedModel
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
        self._budget = batch_tokens or default_batch_tokens(loaded, backward=True)
        self._learned = 0

    def learn(self, rows: Sequence[Encoded]) -> None:
        """Add domain rows to the mean."""
        self._mean.collecting = True
        self._run(rows)
        self._learned += len(rows)

    def score(self, rows: Sequence[Encoded]) -> NDArray[np.float64]:
        """The scores of pool rows (n,) float64."""
        self._mean.collecting = False
        return self._run(rows) / (len(self._probes) * max(1, self._learned))

    def _run(self, rows: Sequence[Encoded]) -> NDArray[np.float64]:
        scores = np.zeros(len(rows))
        for where in plan_batches([len(row) for row in rows], self._budget):
            self._mean.probe = 0
            for k, (part_B1, _) in enumerate(
                self._engine.each_probe([rows[i] for i in where], positions=self._positions)
            ):
                # The mean was summed without the probe's scale, which each side of a dot product has once.
                scores[where] += part_B1[:, 0].double().cpu().numpy() * self._probes[k].scale
                self._mean.probe = k + 1
        return scores
