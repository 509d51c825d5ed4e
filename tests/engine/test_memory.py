"""Where memory runs out: half the tokens, the rest planned again, and a row that never fits named by its place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ntkcli.engine.memory import DoesNotFitError, TokenBudget, out_of_memory, run_batches

FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError("Unable to allocate 3.00 GiB for an array"),
]


@pytest.mark.parametrize("error", FULL)
def test_what_does_not_fit_is_planned_again_for_half_the_tokens(error: Exception) -> None:
    failed: list[int] = []
    done: list[int] = []

    def compute(where: NDArray[np.int64]) -> None:
        if len(where) > 2:
            failed.append(len(where))
            raise error
        done.extend(where.tolist())

    budget = TokenBudget(28)
    run_batches([4] * 28, budget, compute)
    assert budget.tokens == 6
    assert failed == [7, 3]  # once for each budget, not once for each batch
    assert sorted(done) == list(range(28))


@pytest.mark.parametrize("error", FULL)
def test_a_row_that_does_not_fit_alone_is_told_by_place_and_length(error: Exception) -> None:
    def compute(where: NDArray[np.int64]) -> None:
        if 2 in where:
            raise error

    with pytest.raises(DoesNotFitError) as refused:
        run_batches([4, 9, 30, 8], TokenBudget(1000), compute)
    assert (refused.value.row, refused.value.tokens) == (2, 30)
    named = refused.value.named("d.jsonl line 3 (id x)")
    assert str(named).startswith("d.jsonl line 3 (id x) does not fit in memory, even alone: it has 30 tokens.")
    assert "--max-length" in named.fix


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("no")])
def test_another_error_is_raised_as_it_is(error: Exception) -> None:
    def compute(where: NDArray[np.int64]) -> None:
        raise error

    assert not out_of_memory(error)
    with pytest.raises(type(error), match=str(error)):
        run_batches([4, 4], TokenBudget(28), compute)
