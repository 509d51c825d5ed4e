"""Sketch gradients of millions of coordinates into `dim` numbers that keep dot products, without a matrix.

A CountSketch (sparse Johnson-Lindenstrauss transform with one nonzero a column) laid out so that it touches
memory in order. The gradient of one LoRA factor is a matrix G of r rows and d columns (r the rank). Its row is cut
into segments of at most `dim` columns; segment k of row i is added to the sketch as one contiguous run, from
a random offset o[i,k]; column c carries the sign beta[c] and row i the sign alpha[i]:

    sketch[(o[i,k] + c - start of k) mod dim] += alpha[i] * beta[c] * G[i,c]

Two coordinates of different rows share a bucket with probability 1/dim, of the same segment never, so the
sketch is unbiased: E<S a, S b> = <a, b>. The product of signs is enough for CountSketch's variance,
Var <= (|a|^2 |b|^2 + <a,b>^2)/dim: within a pair of rows every collision is at one distance, and signs of pairs at one
distance cancel like independent ones (but for the distance dim/2).

Offsets and signs are a counter-based hash of (seed, factor name, index) alone: the same on every device, for
any batch, part or shard.

On CUDA a factor is added by one kernel (`sketch_kernel.py`), elsewhere by rank x segments operations, to the same bits.

Legend: B rows of data, r rank, d columns, p = `dim`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ntkcli.engine.hashing import hash_u64, signs
from ntkcli.notes import note


@dataclass(frozen=True, slots=True)
class FactorSketch:
    """The sketch of one LoRA factor: `offsets[i][k]` in [0, p), `alpha` (r,) and `beta` (d,) of -1 or 1.

    `table` has the offsets (r, segments) int32 on the device.
    """

    offsets: list[list[int]]
    alpha: Tensor
    beta: Tensor
    table: Tensor | None = field(default=None, kw_only=True)


class AddFactor(Protocol):
    """Adds a factor's gradients (B, r, d) to an accumulator (B, p + longest segment)."""

    def __call__(self, total: Tensor, gradient_Brd: Tensor, *, offsets: Tensor, beta: Tensor, dim: int) -> None:
        """`offsets` (r, segments) int32, `beta` (d,) float32."""


@cache
def one_kernel(device: torch.device) -> AddFactor | None:
    """The kernel that adds a factor at once; None on a CPU, and with a warning where Triton is missing or fails."""
    if device.type != "cuda":
        return None
    try:
        from ntkcli.engine.gradients import sketch_kernel

        sketch_kernel.check(device)
    except Exception as error:  # Triton raises of every kind: no compiler, no driver, an unknown card
        note(
            f"The sketch is added up in many small steps, which is slower: Triton can't be used here ({error}). "
            "Install triton and a C compiler (gcc)."
        )
        return None
    return sketch_kernel.add


class Sketch:
    """Adds per-row factor gradients into (B, p) float32 sketches.

    Memory: (r + d) numbers a factor and one (B, p + longest segment) buffer; no p x P matrix. `add_factor`: a kernel
    that does what the loop in `add` does; gradients that are to be differentiated go through the loop.
    """

    def __init__(self, dim: int, seed: int, device: torch.device, *, add_factor: AddFactor | None = None) -> None:
        self.dim, self.seed, self.device = dim, seed, device
        self._add_factor = add_factor
        self._longest = 0

    def factor(self, name: str, rank: int, columns: int) -> FactorSketch:
        """The sketch of the factor `name`, a matrix of `rank` rows and `columns` columns."""
        segments = -(-columns // self.dim)
        draws = hash_u64(self.seed, f"{name}|offset", rank * segments) >> np.uint64(32)
        offsets = (draws * np.uint64(self.dim)) >> np.uint64(32)  # multiply-shift: no division, no bias worth a name
        self._longest = max(self._longest, min(columns, self.dim))
        table = offsets.astype(np.int32).reshape(rank, segments)
        return FactorSketch(
            table.tolist(),
            torch.from_numpy(signs(self.seed, f"{name}|row", rank)).to(self.device),
            torch.from_numpy(signs(self.seed, f"{name}|column", columns)).to(self.device),
            table=torch.from_numpy(table).to(self.device),
        )

    def zeros(self, rows: int) -> Tensor:
        """An empty accumulator for `rows` rows: (B, p + longest segment), so that no run ever wraps."""
        return torch.zeros(rows, self.dim + self._longest, device=self.device)

    def add(self, total: Tensor, gradient_Brd: Tensor, factor: FactorSketch) -> None:
        """Add the gradients of one factor to the accumulator. Their rows must carry `factor.alpha` already.

        (The engine multiplies alpha into the thin matrix that the gradient is a product of: it is free there.)
        """
        if self._add_factor is not None and factor.table is not None and not gradient_Brd.requires_grad:
            self._add_factor(total, gradient_Brd, offsets=factor.table, beta=factor.beta, dim=self.dim)
            return
        columns = gradient_Brd.shape[2]
        for start, offsets in zip(range(0, columns, self.dim), zip(*factor.offsets, strict=True), strict=True):
            size = min(self.dim, columns - start)
            beta = factor.beta[start : start + size]
            rows = gradient_Brd[:, :, start : start + size].unbind(1)
            for row, offset in zip(rows, offsets, strict=True):  # as few calls as can be: there are thousands a batch
                total.narrow(1, offset, size).addcmul_(row, beta)

    def finish(self, total: Tensor) -> Tensor:
        """The sketches (B, p) of an accumulator: what ran past the end is added at the beginning."""
        sketch_Bp = total[:, : self.dim]
        sketch_Bp[:, : self._longest] += total[:, self.dim :]
        return sketch_Bp
