"""The sketch of a factor as one kernel, in Triton: what `sketch.py` does in rank x segments operations of torch.

Every number of the accumulator is one lane's own, which adds what belongs there in the order of the plain loop:
no atomics, and the same bits as the plain loop gives. Compiled at the first call, for each (rank, segments), with the C
compiler that Triton finds; imported only where there is CUDA (or Triton's interpreter, in tests).

Legend: B rows of data, r rank, d columns, p size of the sketch, W = p + longest segment, columns of the accumulator.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024
"""Lanes of a program: 8 numbers for each of 128 threads, so that loads are wide."""


@triton.jit  # type: ignore[untyped-decorator]  # Triton has no types
def _add(  # type: ignore[no-untyped-def]  # Triton reads the annotations too, and knows its own alone
    total,
    gradient,
    offsets,
    beta,
    width,
    columns,
    dim,
    gradient_row,
    gradient_rank,
    RANK: tl.constexpr,
    SEGMENTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = place < width
    sums = tl.load(total + row * width + place, mask=inside, other=0.0)
    for segment in range(SEGMENTS):
        start = segment * dim
        size = tl.minimum(dim, columns - start)
        for i in range(RANK):
            column = place - tl.load(offsets + i * SEGMENTS + segment)
            used = (column >= 0) & (column < size)
            here = gradient + row * gradient_row + i * gradient_rank + start + column
            sums += tl.load(here, mask=used, other=0.0) * tl.load(beta + start + column, mask=used, other=0.0)
    tl.store(total + row * width + place, sums, mask=inside)


def add(total: Tensor, gradient_Brd: Tensor, *, offsets: Tensor, beta: Tensor, dim: int) -> None:
    """Add a factor's gradients to the accumulator (B, W), contiguous; `offsets` (r, segments) int32, `beta` (d,)."""
    rows, rank, columns = gradient_Brd.shape
    if gradient_Brd.stride(2) != 1:
        gradient_Brd = gradient_Brd.contiguous()
    width = total.shape[1]
    grid = (rows, triton.cdiv(width, _BLOCK))
    strides = gradient_Brd.stride(0), gradient_Brd.stride(1)
    sizes: dict[str, Any] = {"RANK": rank, "SEGMENTS": offsets.shape[1], "BLOCK": _BLOCK}
    with torch.cuda.device(total.device) if total.is_cuda else nullcontext():  # Triton launches on the current one
        _add[grid](total, gradient_Brd, offsets, beta, width, columns, dim, *strides, **sizes)


def check(device: torch.device) -> None:
    """Compile the kernel and run it once; raises whatever Triton does where it can't, RuntimeError for a wrong sum."""
    total, offsets = torch.ones(1, 5, device=device), torch.tensor([[1], [2]], dtype=torch.int32, device=device)
    beta = torch.tensor([1.0, -1.0], device=device)
    add(total, torch.tensor([[[2.0, 3.0], [4.0, 5.0]]], device=device), offsets=offsets, beta=beta, dim=3)
    if total.tolist() != [[1.0, 3.0, 2.0, -4.0, 1.0]]:
        raise RuntimeError(f"the sketch's kernel adds up wrong numbers on {device}: {total.tolist()}")
