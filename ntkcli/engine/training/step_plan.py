"""The steps of a training, planned before it begins: which rows, in which order, how many tokens.

The order is that of transformers' Trainer (a permutation for each epoch from seed + epoch).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from ntkcli.errors import UsageError


def plan_steps(
    lengths: Sequence[int], *, batch_size: int, seed: int, epochs: int | None, max_tokens: int | None,
    max_steps: int | None = None,
) -> list[NDArray[np.int64]]:  # fmt: skip
    """Row numbers of each step: `epochs` passes, or `max_steps` steps, or as many as hold `max_tokens` tokens.

    An epoch's last step may be smaller; so may the last of a token budget, which takes rows as long as they fit.

    Raises:
        UsageError: the budget is smaller than the first row.
    """
    tokens = np.asarray(lengths, dtype=np.int64)
    left = None if max_tokens is None else max_tokens
    steps: list[NDArray[np.int64]] = []
    for epoch in count() if epochs is None else range(epochs):
        generator = torch.Generator().manual_seed(seed + epoch)
        order = torch.randperm(len(tokens), generator=generator).numpy()
        for start in range(0, len(order), batch_size):
            step = order[start : start + batch_size]
            if left is not None:
                fitting = int(np.searchsorted(np.cumsum(tokens[step]), left, side="right"))
                left -= int(tokens[step[:fitting]].sum())
                if fitting < len(step):
                    return _not_empty([*steps, step[:fitting]] if fitting else steps, max_tokens, tokens[step[0]])
            steps.append(step)
            if len(steps) == max_steps:
                return steps
    return steps


def plan_stages(
    lengths: Sequence[int], stages: Sequence[int], *, batch_size: int, seed: int, epochs: int | None,
    max_tokens: int | None, max_steps: int | None = None,
) -> list[NDArray[np.int64]]:  # fmt: skip
    """The steps of each stage, one stage after the other: `stages` counts the rows of each, in order.

    Without stages, or with one, these are the steps of `plan_steps`. Each stage has `epochs` passes of its own; a
    budget of tokens or steps has no stages.

    Raises:
        UsageError: as `plan_steps`.
    """
    if len(stages) <= 1:
        return plan_steps(
            lengths, batch_size=batch_size, seed=seed, epochs=epochs, max_tokens=max_tokens, max_steps=max_steps
        )
    steps: list[NDArray[np.int64]] = []
    start = 0
    for n in stages:
        own = lengths[start : start + n]
        found = plan_steps(own, batch_size=batch_size, seed=seed, epochs=epochs, max_tokens=None)
        steps += [step + start for step in found]
        start += n
    return steps


def _not_empty(steps: list[NDArray[np.int64]], budget: int | None, first: int) -> list[NDArray[np.int64]]:
    if not steps:
        raise UsageError(f"--max-tokens {budget}: the first row alone has {first} tokens.", f"Give {first} or more.")
    return steps
