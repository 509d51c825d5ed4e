"""Split a product with a row's gradient over the row's tokens: which of them carry it.

The gradient of a factor is a sum over positions, dB = s sum_t g_t (A x_t)^T and dA = s sum_t (B^T g_t) x_t^T, and a
projection S is linear. So with M = S^T v the part of <S grad, v> that position t adds is exactly

    s (A x_t)^T M_B g_t + s (B^T g_t)^T M_A x_t                summed over the adapted layers

over all positions of the row, those of the prompt too: attention takes the gradient of an answer there.

Legend: B rows, T tokens, i inputs, o outputs, r rank, d columns of a factor, p size of the projection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ntkcli.engine.gradients.projections import DenseRademacher, Projection
from ntkcli.engine.gradients.sketch import FactorSketch
from ntkcli.engine.gradients.taps import Arrived

Directions = Mapping[str, tuple[Tensor, Tensor | None]]
"""Layer → M_B (r, o) and M_A (r, i); no M_A where B = 0."""


class TokenProducts:
    """Takes the place of the contraction over positions (`taps.Inputs.by_token`) and adds up (B, T) products."""

    def __init__(self) -> None:
        self._directions: Directions = {}
        self._total: Tensor | None = None

    def aim(self, directions: Directions) -> None:
        """The directions of the next backward."""
        self._directions, self._total = directions, None

    def __call__(self, x_BTi: Tensor, arrived: Sequence[Arrived]) -> None:
        """Add the products of some layers that read the same input."""
        for one in arrived:
            to_b, to_a = self._directions[one.tap.name]
            ax_BTr = x_BTi @ one.tap.a_in_r if one.ax is None else one.ax
            self._add(((ax_BTr.float() @ to_b) * one.g.float()).sum(dim=2))
            bg_BTr = one.bg()
            if bg_BTr is not None and to_a is not None:
                self._add(((bg_BTr.float() @ to_a) * x_BTi.float()).sum(dim=2))

    def take(self) -> Tensor:
        """The products of the last backward (B, T) float64."""
        if self._total is None:
            raise RuntimeError("no backward has been run")
        return self._total

    def _add(self, part_BT: Tensor) -> None:
        self._total = part_BT.double() if self._total is None else self._total + part_BT.double()


def adjoint(projection: Projection, factor: FactorSketch, rank: int, columns: int, direction_p: Tensor) -> Tensor:
    """M = S^T v of one factor, (r, d): <S G, v> = sum of M·G for gradients G that carry their row signs, as for `add`.

    By autograd, so that it is whatever the projection does; but for the dense one, whose matrix would be kept whole.
    """
    if isinstance(projection, DenseRademacher):
        return projection.transposed(direction_p, factor, rank * columns).view(rank, columns)
    with torch.enable_grad():
        gradient_1rd = torch.zeros(1, rank, columns, device=direction_p.device, requires_grad=True)
        total = projection.zeros(1)
        projection.add(total, gradient_1rd, factor)
        (found_1rd,) = torch.autograd.grad(projection.finish(total)[0] @ direction_p, gradient_1rd)
    return found_1rd[0]
