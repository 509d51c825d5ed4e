"""Kernel values of pool rows with domain rows: exact, and by sketches of several sizes and seeds, from one pass.

Legend: n pool rows, m domain rows, p size of a sketch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ntkcli.data.encoding import Encoded
from ntkcli.engine.features.extract import gradient_footprint, token_budget
from ntkcli.engine.gradients.probes import LogitProbe, with_room
from ntkcli.engine.gradients.projections import make_projection
from ntkcli.engine.gradients.row_gradients import GradientEngine
from ntkcli.engine.gradients.side_by_side import SideBySide
from ntkcli.engine.memory import run_batches
from ntkcli.engine.models.adapters import AdaptedLayer
from ntkcli.engine.models.loading import LoadedModel
from ntkcli.engine.rope import length_classes

Wide = NDArray[np.float64]


class SketchedKernels:
    """First given the domain (`learn`), then any pool rows (`kernels`). Memory: the domain's gradients, whole."""

    def __init__(
        self,
        loaded: LoadedModel,
        layers: list[AdaptedLayer],
        *,
        probe: str,
        sketches: Sequence[tuple[int, int]],
        batch_tokens: int | None = None,
    ) -> None:
        """`sketches`: size and seed of each."""
        made = [make_projection("sjlt", dim=p, seed=seed, device=loaded.device) for p, seed in sketches]
        self._side = SideBySide(made, loaded.device)
        self._probe = with_room(LogitProbe(loaded.model, probe), loaded.dtype)
        self._engine = GradientEngine(loaded, layers, projection=self._side, probes=[self._probe])
        self._budget = token_budget(loaded, gradient_footprint(loaded, layers, self._side.dim), batch_tokens)
        self._classes = length_classes(loaded.model.config)
        self._domain: Wide = np.zeros((0, 0))
        self._order: list[int] = []

    def learn(self, rows: Sequence[Encoded], *, on_batch: Callable[[int, int], None]) -> None:
        """Hold the gradients of the domain's rows, and their sketches."""
        self._side.collecting = True
        found: dict[int, Wide] = {}

        def compute(where: NDArray[np.int64]) -> None:
            self._side.forget()  # what a batch left behind that ran out of memory
            values = self._values(rows, where)
            self._side.keep()
            self._order.extend(where.tolist())
            found.update(zip(where.tolist(), values, strict=True))
            on_batch(len(where), sum(len(rows[i]) for i in where))

        run_batches([len(row) for row in rows], self._budget, compute, self._classes)
        self._domain = np.stack([found[i] for i in range(len(rows))])

    def kernels(self, rows: Sequence[Encoded], *, on_batch: Callable[[int, int], None]) -> list[Wide]:
        """(n, m) kernel values: exact, and by each sketch."""
        self._side.collecting = False
        widths, m = self._side.widths, len(self._order)
        values = np.zeros((len(rows), self._side.dim))

        def compute(where: NDArray[np.int64]) -> None:
            values[where] = self._values(rows, where)
            on_batch(len(where), sum(len(rows[i]) for i in where))

        run_batches([len(row) for row in rows], self._budget, compute, self._classes)
        exact = np.empty((len(rows), m))
        exact[:, self._order] = values[:, :m] * self._probe.scale  # the rows held lack the probe's scale
        found, start = [exact], 0
        for width in widths[1:]:
            own = values[:, m + start : m + start + width]
            found.append(own @ self._domain[:, start : start + width].T)
            start += width
        return found

    def _values(self, rows: Sequence[Encoded], where: NDArray[np.int64]) -> Wide:
        ((part, _),) = self._engine.each_probe([rows[i] for i in where], positions="completion")
        found: Wide = part.double().cpu().numpy()
        return found
