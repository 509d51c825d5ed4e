"""What happens when memory runs out, for everything that computes batches: halve, go on, and name what never fits.

Features, exact scores, evaluation, generation, training and its held-out loss all compute at most so many padded tokens
at a time (`TokenBudget`). What doesn't fit is computed again in smaller batches; rows are never cut.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from ntkcli.engine.batches import plan_batches
from ntkcli.engine.rope import LengthClasses
from ntkcli.errors import NtkselError

LOGIT_BYTES = 256 << 20
"""Of float32 logits at once: 440 tokens at a vocabulary of 152,000."""
TRIAL_TOKENS = 4096
"""Of a trial batch: enough that what does not grow with it weighs little."""
_LEAST_TRIAL = 256
MEASURED_SHARE = 0.8
"""Of the free CUDA memory, what a batch may take by a measured one; the rest is for fragmentation."""
MOST_TOKENS = 65_536
"""Of a batch: larger ones are no faster on any device, and more is lost where one fails."""
FIX = "Give a shorter --max-length, or --dtype bfloat16, which takes half the memory."
_SIGNS = (
    "can't allocate memory",  # torch's allocator on Linux
    "not enough memory",  # on Windows
    "out of memory",  # CUDA's runtime, outside torch's allocator
    "CUBLAS_STATUS_ALLOC_FAILED",
)


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that a batch holds: `fixed`, and for each row of T tokens `row` + T * `token` + T**2 * `square`."""

    token: int
    row: int = 0
    square: int = 0
    fixed: int = 0

    def held(self, longest: NDArray[np.int64]) -> NDArray[np.int64]:
        """What a row padded to `longest` tokens holds, in tokens, rounded up; at least its tokens."""
        extra = self.row + self.square * longest**2
        return longest - (-extra // self.token)


class DoesNotFitError(NtkselError):
    """A row of `tokens` tokens does not fit in memory by itself; `row` is its place among those that were given."""

    def __init__(self, row: int, tokens: int) -> None:
        super().__init__(f"A row of {tokens} tokens does not fit in memory.", FIX)
        self.row, self.tokens = row, tokens

    def named(self, name: str, fix: str = FIX) -> NtkselError:
        """The same for a user, who knows the row by its file, line and id."""
        return NtkselError(f"{name} does not fit in memory, even alone: it has {self.tokens} tokens.", fix)


class TokenBudget:
    """How many padded tokens are computed at a time: `tokens`. It goes down for good where memory runs out.

    What a row holds beside its tokens counts as more of them, where the `footprint` is known (on CUDA).
    """

    def __init__(self, tokens: int, footprint: Footprint | None = None) -> None:
        self.tokens, self.footprint = tokens, footprint

    def held(self, longest: NDArray[np.int64]) -> NDArray[np.int64]:
        """What rows padded to `longest` tokens count, each."""
        return longest if self.footprint is None else self.footprint.held(longest)

    def row(self, longest: int) -> int:
        """What a row padded to `longest` tokens counts."""
        return int(self.held(np.array([longest], dtype=np.int64))[0])

    def fits(self, compute: Callable[[], object], rows: Sequence[int] | NDArray[np.int64], *, longest: int) -> bool:
        """Compute the batch of these `rows`, padded to `longest` tokens; where memory runs out, halve `tokens`: False.

        What an attempt held is free again before this returns.

        Raises:
            DoesNotFitError: the batch is a single row.
        """
        try:
            compute()
            return True
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if len(rows) == 1:
                raise DoesNotFitError(int(rows[0]), longest) from error
        torch.cuda.empty_cache()  # nothing on a machine without CUDA
        counted = self.row(longest)
        self.tokens = max(counted, len(rows) * counted // 2)
        return False


def run_batches(
    lengths: Sequence[int],
    budget: TokenBudget,
    compute: Callable[[NDArray[np.int64]], None],
    classes: LengthClasses | None = None,
) -> None:
    """Compute every batch of `plan_batches`; where memory runs out, what is left is planned again for half the tokens.

    `compute` must leave nothing behind when it runs out of memory.

    Raises:
        DoesNotFitError: a row does not fit alone; `row` is its index in `lengths`.
    """
    lengths_N = np.asarray(lengths, dtype=np.int64)
    left = deque(plan_batches(lengths_N, budget.tokens, classes, budget.held))
    while left:
        where = left.popleft()
        if not budget.fits(partial(compute, where), where, longest=int(lengths_N[where[0]])):
            rest = np.concatenate([where, *left])
            left = deque(rest[again] for again in plan_batches(lengths_N[rest], budget.tokens, classes, budget.held))


def free_bytes(device: torch.device) -> int:
    """Free memory of a CUDA device: the driver's, and what torch has taken of it and keeps for later."""
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def measured_tokens(budget: TokenBudget, device: torch.device, run: Callable[[int], int]) -> int:
    """Tokens a batch on a CUDA device by what a trial batch holds; `run` computes one of about so many, returned.

    The counted `budget` where even a small trial does not fit: the first batch will tell then.
    """
    tokens = min(budget.tokens, TRIAL_TOKENS)
    while tokens >= _LEAST_TRIAL:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        try:
            counted = run(tokens)
            torch.cuda.synchronize(device)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            torch.cuda.empty_cache()
            tokens //= 2
            continue
        held = max(1, torch.cuda.max_memory_allocated(device) - before)
        room = MEASURED_SHARE * free_bytes(device)
        return int(min(max(room * counted / held, tokens), MOST_TOKENS))
    return budget.tokens


def out_of_memory(error: BaseException) -> bool:
    """Whether the error is that the device, or the machine, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
