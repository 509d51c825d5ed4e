"""Several sketches of the same gradients side by side, and their exact dot products with a few rows held whole.

As a projection (`projections.py`). Legend: B rows, r rank, d columns of a factor, P coordinates in all, m rows held.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ntkcli.engine.gradients.projections import Projection, Slot
from ntkcli.engine.gradients.sketch import FactorSketch


class SideBySide:
    """The columns of a result: exact products with the m rows held (none while `collecting`), then each sketch.

    While `collecting`, a batch's gradients are kept apart, until `keep` adds them to those held or `forget` drops them:
    a batch that ran out of memory leaves nothing behind. Memory: P float32 numbers for each row held.
    """

    def __init__(self, sketches: Sequence[Projection], device: torch.device) -> None:
        self.collecting = True
        self._sketches, self._device = list(sketches), device
        self._coordinates = 0
        self._factors: dict[int, list[FactorSketch]] = {}
        self._held: dict[int, list[Tensor]] = {}
        self._batch: dict[int, Tensor] = {}
        self._totals: list[Tensor] = []

    @property
    def held(self) -> int:
        """m."""
        return next((sum(map(len, rows)) for rows in self._held.values()), 0)

    @property
    def widths(self) -> list[int]:
        """Columns of the exact products and of each sketch."""
        return [0 if self.collecting else self.held, *(sketch.dim for sketch in self._sketches)]

    @property
    def dim(self) -> int:
        """All columns."""
        return sum(self.widths)

    def factor(self, name: str, rank: int, columns: int) -> Slot:
        """A place for the factor's gradients, and its sketches."""
        start, self._coordinates = self._coordinates, self._coordinates + rank * columns
        self._factors[start] = [sketch.factor(name, rank, columns) for sketch in self._sketches]
        return Slot([], torch.ones(rank, device=self._device), torch.empty(0), start, 0)

    def zeros(self, rows: int) -> Tensor:
        """(B, m) zeros, float64; the sketches' accumulators are kept here."""
        self._totals = [sketch.zeros(rows) for sketch in self._sketches]
        return torch.zeros(rows, self.widths[0], dtype=torch.float64, device=self._device)

    def add(self, total: Tensor, gradient_Brd: Tensor, factor: FactorSketch) -> None:
        """Keep the gradients, or multiply with those held; and add them to each sketch."""
        assert isinstance(factor, Slot)  # noqa: S101  (for the type checker; `factor` above made it)
        flat = gradient_Brd.flatten(1)
        if self.collecting:
            self._batch[factor.start] = flat.clone()
        else:
            total += flat @ torch.cat(self._held[factor.start]).T
        for sketch, own, sums in zip(self._sketches, self._factors[factor.start], self._totals, strict=True):
            sketch.add(sums, gradient_Brd * own.alpha[:, None], own)

    def finish(self, total: Tensor) -> Tensor:
        """(B, dim) float64."""
        found = [sketch.finish(sums).double() for sketch, sums in zip(self._sketches, self._totals, strict=True)]
        return torch.cat([total, *found], dim=1)

    def keep(self) -> None:
        """Hold the batch's gradients."""
        for start, rows in self._batch.items():
            self._held.setdefault(start, []).append(rows)
        self.forget()

    def forget(self) -> None:
        """Drop the batch's gradients."""
        self._batch.clear()
