"""The plan of steps: the Trainer's order, and a budget of tokens that is filled and not passed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ntkcli.engine.training.step_plan import plan_stages, plan_steps
from ntkcli.errors import UsageError


def test_epochs_are_the_trainers_order() -> None:
    from accelerate.data_loader import SeedableRandomSampler

    torch.manual_seed(5)  # as the Trainer does with its seed
    sampler = SeedableRandomSampler(range(10))  # type: ignore[arg-type]
    expected = [list(sampler), list(sampler)]
    steps = plan_steps([1] * 10, batch_size=4, seed=5, epochs=2, max_tokens=None)
    assert [len(step) for step in steps] == [4, 4, 2, 4, 4, 2]
    assert [np.concatenate(steps[:3]).tolist(), np.concatenate(steps[3:]).tolist()] == expected


@given(
    st.lists(st.integers(2, 50), min_size=1, max_size=30), st.integers(1, 8), st.integers(50, 3000), st.integers(0, 9)
)
def test_a_budget_is_filled_and_not_passed(lengths: list[int], batch_size: int, budget: int, seed: int) -> None:
    steps = plan_steps(lengths, batch_size=batch_size, seed=seed, epochs=None, max_tokens=budget)
    flat = np.concatenate(steps)
    tokens = sum(lengths[i] for i in flat)
    assert budget - max(lengths) < tokens <= budget
    epochs = len(flat) // len(lengths) + 1
    longer = np.concatenate(plan_steps(lengths, batch_size=batch_size, seed=seed, epochs=epochs, max_tokens=None))
    assert (flat == longer[: len(flat)]).all()  # the same rows as epochs have, cut off


def test_a_budget_below_one_row_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--max-tokens 3: the first row alone has 7 tokens. Give 7 or more."):
        plan_steps([7, 7], batch_size=2, seed=0, epochs=None, max_tokens=3)


def test_stages_come_one_after_the_other() -> None:
    lengths = [3, 4, 5, 6, 7]
    both = plan_stages(lengths, [3, 2], batch_size=2, seed=1, epochs=2, max_tokens=None)
    first = plan_steps(lengths[:3], batch_size=2, seed=1, epochs=2, max_tokens=None)
    second = plan_steps(lengths[3:], batch_size=2, seed=1, epochs=2, max_tokens=None)
    assert [step.tolist() for step in both] == [step.tolist() for step in first] + [(s + 3).tolist() for s in second]
    one = plan_stages(lengths, [5], batch_size=2, seed=1, epochs=2, max_tokens=None)
    plain = plan_steps(lengths, batch_size=2, seed=1, epochs=2, max_tokens=None)
    assert [step.tolist() for step in one] == [step.tolist() for step in plain]


def test_a_number_of_steps_goes_on_over_passes_and_stops_within_one() -> None:
    lengths = [3] * 7
    epochs = plan_steps(lengths, batch_size=3, seed=2, epochs=3, max_tokens=None)
    for n in (2, 3, 8):
        steps = plan_steps(lengths, batch_size=3, seed=2, epochs=None, max_tokens=None, max_steps=n)
        assert [step.tolist() for step in steps] == [step.tolist() for step in epochs[:n]]
