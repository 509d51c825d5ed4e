"""Batches: within the budget, every row once, of all cuts the one that costs least, and no token that nothing needs."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from ntkcli.data.encoding import Encoded
from ntkcli.engine.batches import mask_of, pad, pad_rows, plan_batches

BUDGET = 128
OVERHEAD = BUDGET // 16


def cost_of(lengths: list[int], budget: int = BUDGET) -> int:
    """Tokens with padding, and what each batch costs."""
    return sum(OVERHEAD + len(where) * max(lengths[i] for i in where) for where in plan_batches(lengths, budget))


def cheapest(lengths: list[int]) -> int:
    """The same of the best cut, found by trying all."""
    ordered = sorted(lengths, reverse=True)

    @cache
    def of(start: int) -> int:
        if start == len(ordered):
            return 0
        fitting = max(1, BUDGET // ordered[start])
        stops = range(start + 1, min(start + fitting, len(ordered)) + 1)
        return min(OVERHEAD + (stop - start) * ordered[start] + of(stop) for stop in stops)

    return of(0)


@pytest.mark.parametrize("seed", range(8))
def test_least_padding_within_the_budget(seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 200, 40).tolist()
    batches = plan_batches(lengths, BUDGET)
    assert sorted(np.concatenate(batches).tolist()) == list(range(40))
    for where in batches:
        assert len(where) == 1 or len(where) * lengths[int(where[0])] <= BUDGET
        assert lengths[int(where[0])] == max(lengths[i] for i in where)
    longest = [lengths[int(where[0])] for where in batches]
    assert longest == sorted(longest, reverse=True)
    assert cost_of(lengths) == cheapest(lengths)


def test_a_large_budget_does_not_pad_short_rows_to_long_ones() -> None:
    lengths = np.random.default_rng(0).lognormal(5.3, 0.8, 1024).astype(int).clip(1, 2048).tolist()
    batches = plan_batches(lengths, 65_536)
    padded = sum(len(where) * lengths[int(where[0])] for where in batches)
    assert sum(lengths) / padded > 0.85  # filling every batch to the budget gives .75
    assert len(batches) < 20


def test_rows_of_one_length_fill_the_budget() -> None:
    assert [len(where) for where in plan_batches([8] * 50, 128)] == [16, 16, 16, 2]


@pytest.mark.parametrize(("lengths", "count"), [([], 0), ([0, 0], 1), ([500], 1), ([500, 500], 2)])
def test_edges(lengths: list[int], count: int) -> None:
    assert len(plan_batches(lengths, BUDGET)) == count


@pytest.mark.parametrize(("positions", "used"), [("completion", 5), ("targets", 5), ("last", 8), ("all", 8)])
def test_what_follows_the_last_position_is_left_out(positions: str, used: int) -> None:
    supervised = np.isin(np.arange(8), (4, 5))
    long = Encoded(np.arange(10, 18, dtype=np.int32), supervised, truncated=False)
    short = Encoded(np.arange(20, 24, dtype=np.int32), np.arange(4) == 3, truncated=False)
    batch = pad([long, short], positions=positions, pad_id=0, device=torch.device("cpu"))
    assert batch.ids.shape == batch.weight.shape == (2, used)
    for (row, position), token in zip(batch.weighted.tolist(), batch.following.tolist(), strict=True):
        ids = (long, short)[row].ids
        assert token == (ids[position + 1] if position + 1 < len(ids) else 0)


@pytest.mark.parametrize("left", [False, True])
def test_rows_are_padded_as_torch_pads_them(left: bool) -> None:
    rows = [np.arange(1, n + 1, dtype=np.int32) for n in (3, 1, 5, 0)]
    side = "left" if left else "right"
    expected = torch.nn.utils.rnn.pad_sequence(
        [torch.from_numpy(row) for row in rows], batch_first=True, padding_value=-7, padding_side=side
    )
    assert np.array_equal(pad_rows(rows, -7, left=left), expected.numpy())
    assert pad_rows(rows, -7, width=8).shape == (4, 8)
    assert np.array_equal(mask_of([len(row) for row in rows], left=left), expected.numpy() != -7)
