"""The exact trace kernel of all outputs, without a sketch, by one backward pass for each number of a hidden state.

For a linear head W (V, D) with mean row m, C = W - 1 m^T and C^T C = L L^T, D + 1 backward passes give the sum over V:

    centred    sum_k <∇ c_k·h(x), ∇ c_k·h(x')> = sum_d <∇ l_d·h(x), ∇ l_d·h(x')>        what softmax sees
    trace      Θ(x, x') = sum_k <∇ w_k·h(x), ∇ w_k·h(x')> = centred + <∇ V m·h(x), ∇ V m·h(x')> / V

V m·h is the sum of all outputs; h is the mean hidden state of a row's positions.
Legend: B rows, T tokens, D hidden size, V outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntkcli.data.encoding import Encoded
from ntkcli.engine.batches import Batch
from ntkcli.engine.gradients.probes import AnyProbe
from ntkcli.engine.gradients.row_gradients import GradientEngine
from ntkcli.engine.gradients.sketch import FactorSketch
from ntkcli.engine.models.adapters import AdaptedLayer
from ntkcli.engine.models.loading import LoadedModel, head_form, head_of
from ntkcli.errors import UsageError

Wide = NDArray[np.float64]


class Gram:
    """As a projection: the dot products (B, B) of a batch's gradients with each other, exact; no gradient is kept."""

    dim = 0

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def factor(self, name: str, rank: int, columns: int) -> FactorSketch:
        """Nothing to remember; no signs."""
        del name, columns
        return FactorSketch([], torch.ones(rank, device=self._device), torch.empty(0))

    def zeros(self, rows: int) -> Tensor:
        """(B, B) zeros."""
        return torch.zeros(rows, rows, dtype=torch.float64, device=self._device)

    def add(self, total: Tensor, gradient_Brd: Tensor, factor: FactorSketch) -> None:
        """Add a factor's part of the dot products."""
        del factor
        flat = gradient_Brd.flatten(1)
        total += flat @ flat.T  # float32, summed in float64

    def finish(self, total: Tensor) -> Tensor:
        """The accumulator is the result."""
        return total


class HiddenProbe:
    """f = sum_t w_t u·h_t for a direction u of the hidden states: (1, D), the same for every row, or (B, D)."""

    def __init__(self, u_BD: Tensor, *, factor: float = 1.0) -> None:
        length = float(torch.linalg.vector_norm(u_BD)) / math.sqrt(len(u_BD)) or 1.0
        self.scale = factor * length
        self._unit_BD = (u_BD / length).float()

    def __call__(self, hidden_BTD: Tensor, batch: Batch) -> Tensor:
        """As `ntkcli.engine.gradients.probes.Probe`."""
        del hidden_BTD
        return batch.weight[..., None] * self._unit_BD[:, None]


@dataclass(frozen=True, slots=True)
class Head:
    """The output layer: `columns` L (D, D) float64; V; how much of its rows is one direction, in [0, 1].

    `mean_share`: of the rows' squared lengths, what lies along their mean row, which softmax does not see;
    `first_share`: along the direction that holds most.
    """

    columns: Tensor
    outputs: int
    factor: float
    mean_share: float
    first_share: float


def read_head(loaded: LoadedModel) -> Head:
    """The output layer's L by eigenvectors, and its shares. UsageError where the outputs are not linear in it."""
    form = head_form(loaded.model)
    if form.cap is not None:
        raise UsageError(
            f"{type(loaded.model).__name__} caps its logits, so its outputs are not those of a linear head.",
            "Give another model: the exact kernel is for linear heads.",
        )
    weight_VD = head_of(loaded.model).weight.detach()
    outputs, hidden = weight_VD.shape
    mean_D = torch.zeros(hidden, dtype=torch.float64, device=weight_VD.device)
    square_DD = torch.zeros(hidden, hidden, dtype=torch.float64, device=weight_VD.device)
    for block in torch.split(weight_VD, 8192):
        wide = block.double()
        mean_D += wide.sum(dim=0) / outputs
        square_DD += wide.T @ wide
    total = float(square_DD.trace())
    along_mean = float(outputs * mean_D @ mean_D)
    first = float(torch.linalg.eigvalsh(square_DD)[-1])
    values_D, vectors_DD = torch.linalg.eigh(square_DD - outputs * torch.outer(mean_D, mean_D))
    columns = vectors_DD * values_D.clamp(min=0).sqrt()
    return Head(columns, outputs, form.factor, along_mean / total, first / total)


class TraceProbes:
    """The directions of the exact kernel, one for each column of L, and others after them, by number."""

    def __init__(self, loaded: LoadedModel, head: Head, others: Sequence[AnyProbe] = ()) -> None:
        self._head, self._others = head, list(others)
        self._loaded = loaded

    def __len__(self) -> int:
        return self._head.columns.shape[1] + len(self._others)

    def some(self, start: int, stop: int) -> list[AnyProbe]:
        """The probes `start` to `stop`."""
        columns = self._head.columns.shape[1]
        own: list[AnyProbe] = [
            HiddenProbe(self._head.columns[:, d][None].to(self._loaded.device), factor=self._head.factor)
            for d in range(start, min(stop, columns))
        ]
        return [*own, *self._others[max(0, start - columns) : max(0, stop - columns)]]


class KernelEngine:
    """Kernel matrices of a few rows by any probes. Owns the model: its adapted layers are tapped for good."""

    def __init__(self, loaded: LoadedModel, layers: list[AdaptedLayer]) -> None:
        self._engine = GradientEngine(loaded, layers, projection=Gram(loaded.device), probes=[])

    def kernels(
        self, rows: Sequence[Encoded], probes: Sequence[AnyProbe], *, positions: str = "completion"
    ) -> Iterator[Wide]:
        """The kernel matrix (B, B) of every probe, from one forward of one batch."""
        each = self._engine.each_probe(rows, positions=positions, probes=probes)
        for probe, (gram_BB, _) in zip(probes, each, strict=True):
            yield gram_BB.cpu().numpy() * probe.scale  # the engine has scaled one side
