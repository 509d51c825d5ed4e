"""What becomes of a row's gradient: a sketch (`sketch.py`), a dense random projection, itself, or a dot product.

All of them take the gradients factor by factor, as they appear, and share one shape: `factor` declares a factor,
`zeros` makes an accumulator, `add` adds a factor's gradients (B, r, d) to it, `finish` gives (B, dim) float32.

Legend: B rows, r rank, d columns of a factor, P = sum of r·d coordinates in all, p = `dim`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ntkcli.engine.gradients.sketch import FactorSketch, Sketch, one_kernel
from ntkcli.errors import UsageError

MAX_EXACT_COORDINATES = 1 << 20
"""Of projection `none`: 2 MB a row in float16. More is what sketches are for."""
_BLOCK_ENTRIES = 1 << 24
"""Of the dense matrix, what exists at a time: 64 MB as float32."""


class Projection(Protocol):
    """See the module."""

    @property
    def dim(self) -> int:
        """Numbers of a row's result, once all factors are declared."""

    def factor(self, name: str, rank: int, columns: int) -> FactorSketch:
        """Declare a factor; `alpha` (r,) of the result must be multiplied into its gradients' rows."""

    def zeros(self, rows: int) -> Tensor:
        """An accumulator for so many rows."""

    def add(self, total: Tensor, gradient_Brd: Tensor, factor: FactorSketch) -> None:
        """Add a factor's gradients."""

    def finish(self, total: Tensor) -> Tensor:
        """(B, dim) float32."""


def make_projection(name: str, *, dim: int, seed: int, device: torch.device) -> Projection:
    """The projection `name`; `dim` and `seed` mean nothing to `none`."""
    if name == "sjlt":
        return Sketch(dim, seed, device, add_factor=one_kernel(device))
    return DenseRademacher(dim, seed, device) if name == "rademacher" else Exact(device)


@dataclass(frozen=True, slots=True)
class Slot(FactorSketch):
    """A factor that has a place of its own: its coordinates begin at `start`, `key` seeds its signs."""

    start: int
    key: int


class _InOrder:
    """Gives each factor its place after the ones before, and no signs to its rows."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.coordinates = device, 0

    def _slot(self, rank: int, columns: int, *, key: int = 0) -> Slot:
        start, self.coordinates = self.coordinates, self.coordinates + rank * columns
        return Slot([], torch.ones(rank, device=self.device), torch.empty(0), start, key)


class Exact(_InOrder):
    """The gradient itself, factor after factor: dim = P. For small adapters, and for judging the others."""

    @property
    def dim(self) -> int:
        """P, once all factors are declared."""
        return self.coordinates

    def factor(self, name: str, rank: int, columns: int) -> Slot:
        """The next r·d coordinates."""
        slot = self._slot(rank, columns)
        if self.coordinates > MAX_EXACT_COORDINATES:
            raise UsageError(
                f"--projection none: the adapter has more than {MAX_EXACT_COORDINATES:,} parameters (from {name} on).",
                "Give --projection sjlt, a smaller --rank, fewer --target-modules or fewer --layers.",
            )
        return slot

    def zeros(self, rows: int) -> Tensor:
        """(B, P) zeros."""
        return torch.zeros(rows, self.dim, device=self.device)

    def add(self, total: Tensor, gradient_Brd: Tensor, factor: FactorSketch) -> None:
        """Put the gradients in their place."""
        assert isinstance(factor, Slot)  # noqa: S101  (for the type checker; `factor` above made it)
        flat = gradient_Brd.flatten(1)
        total[:, factor.start : factor.start + flat.shape[1]] += flat

    def finish(self, total: Tensor) -> Tensor:
        """The accumulator is the result."""
        return total


class DenseRademacher(_InOrder):
    """The paper's dense projection: entries ±1/sqrt(p), each a hash of (seed, factor, coordinate, column).

    The matrix is made block by block for every batch and never stands whole: 40 G entries for rank 16 on a model of
    135M parameters, which costs many times the model itself. For fidelity studies; `sjlt` has the same variance bound.
    """

    def __init__(self, dim: int, seed: int, device: torch.device) -> None:
        super().__init__(device)
        self.dim, self.seed = dim, seed

    def factor(self, name: str, rank: int, columns: int) -> Slot:
        """A slot whose signs are seeded by (seed, name)."""
        digest = hashlib.blake2b(f"rademacher|{self.seed}|{name}".encode(), digest_size=4).digest()
        return self._slot(rank, columns, key=int.from_bytes(digest, "little"))

    def zeros(self, rows: int) -> Tensor:
        """(B, p) zeros."""
        return torch.zeros(rows, self.dim, device=self.device)

    def add(self, total: Tensor, gradient_Brd: Tensor, factor: FactorSketch) -> None:
        """Multiply by the factor's rows of the matrix, block by block."""
        assert isinstance(factor, Slot)  # noqa: S101  (as above)
        flat = gradient_Brd.flatten(1)
        block = max(1, _BLOCK_ENTRIES // self.dim)
        for start in range(0, flat.shape[1], block):
            part = flat[:, start : start + block]
            total += part @ dense_signs(factor.key, start, part.shape[1], self.dim, self.device)

    def transposed(self, direction_p: Tensor, factor: FactorSketch, coordinates: int) -> Tensor:
        """The factor's part of the transposed matrix times a direction, block by block: (coordinates,) float32."""
        assert isinstance(factor, Slot)  # noqa: S101  (as above)
        block = max(1, _BLOCK_ENTRIES // self.dim)
        parts = [
            dense_signs(factor.key, start, min(block, coordinates - start), self.dim, self.device) @ direction_p
            for start in range(0, coordinates, block)
        ]
        return torch.cat(parts) / math.sqrt(self.dim)

    def finish(self, total: Tensor) -> Tensor:
        """Scaled by 1/sqrt(p), so that dot products are unbiased."""
        return total / math.sqrt(self.dim)


class AgainstMean(_InOrder):
    """Dot products with a mean gradient that is held whole: the exact score, without any projection. dim = 1.

    While `collecting`, a batch's gradients are summed apart, until `keep` adds them to the mean's or `forget` drops
    them: a batch that ran out of memory, or a row whose gradient is not finite, leaves nothing behind. Afterwards each
    row's are multiplied with the mean's. Memory: P float32 numbers a probe, twice while collecting. `probe` says which
    one the gradients at hand belong to.
    """

    dim = 1

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self.collecting, self.probe = True, 0
        self._sums: dict[tuple[int, int], Tensor] = {}
        self._batch: dict[tuple[int, int], Tensor] = {}

    def factor(self, name: str, rank: int, columns: int) -> Slot:
        """A slot for the factor's mean."""
        del name
        return self._slot(rank, columns)

    def zeros(self, rows: int) -> Tensor:
        """(B, 1) zeros."""
        return torch.zeros(rows, 1, device=self.device)

    def add(self, total: Tensor, gradient_Brd: Tensor, factor: FactorSketch) -> None:
        """Into the batch's sum, or against the mean."""
        assert isinstance(factor, Slot)  # noqa: S101  (as above)
        place = (self.probe, factor.start)
        if self.collecting:
            self._batch[place] = self._batch.get(place, 0) + gradient_Brd.sum(dim=0)
        else:
            total[:, 0] += torch.einsum("brd,rd->b", gradient_Brd, self._sums[place])

    def keep(self, wanted: Tensor) -> None:
        """Add the batch's sums to the mean's where `wanted` holds: a truth value, which stays on the device."""
        for place, batch in self._batch.items():
            batch.masked_fill_(~wanted, 0)
            if place in self._sums:
                self._sums[place] += batch
            else:
                self._sums[place] = batch
        self.forget()

    def forget(self) -> None:
        """Drop the batch's sums."""
        self._batch.clear()

    def finish(self, total: Tensor) -> Tensor:
        """The accumulator is the result."""
        return total


def dense_signs(key: int, start: int, count: int, dim: int, device: torch.device) -> Tensor:
    """Rows `start` to `start + count` of a factor's sign matrix: (count, dim) float32 of -1 and 1.

    31-bit integer arithmetic only (the finaliser of MurmurHash3 cut to 31 bits), so that every device agrees.
    """
    words = -(-dim // 16)
    coordinate = torch.arange(start, start + count, device=device, dtype=torch.int64)[:, None]
    x = _mix(coordinate ^ key) * 31 + torch.arange(words, device=device, dtype=torch.int64)
    bits: Tensor = _mix(_mix(x & _MASK) ^ (key >> 1))[..., None] >> torch.arange(16, device=device)
    found: Tensor = ((bits & 1) * 2 - 1).float().flatten(1)[:, :dim]
    return found


_MASK = (1 << 31) - 1


def _mix(x: Tensor) -> Tensor:
    """A bijective scramble of 31-bit integers held in int64: products stay below 2^62, so nothing overflows."""
    x = (x & _MASK) ^ ((x & _MASK) >> 16)
    x = (x * 0x45D9F3B) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x2C1B3C6D) & _MASK
    scrambled: Tensor = x ^ (x >> 16)
    return scrambled
