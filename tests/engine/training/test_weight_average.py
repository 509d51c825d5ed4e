"""The mean of the last steps' weights: against numpy, over a kill, and with too few steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ntkcli.engine.training.weight_average import WeightAverage


def walk(average: WeightAverage, weight: torch.nn.Parameter, steps: range) -> None:
    for step in steps:
        with torch.no_grad():
            weight.copy_(torch.full_like(weight, float(step**2)))
        average.add(step)


@pytest.mark.parametrize(("n_steps", "share", "taken_in"), [(8, 0.25, [7, 8]), (3, 0.25, [3]), (8, 0.5, [5, 6, 7, 8])])
def test_the_mean_is_of_the_last_steps(n_steps: int, share: float, taken_in: list[int]) -> None:
    model = torch.nn.Linear(3, 2, bias=False)
    average = WeightAverage.of_last(share, model, n_steps=n_steps)
    walk(average, model.weight, range(1, n_steps + 1))
    average.apply()
    assert average.n == len(taken_in)
    np.testing.assert_allclose(model.weight.detach().numpy(), np.mean([s**2 for s in taken_in]), rtol=1e-6)


def test_it_goes_on_from_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    whole, half = torch.nn.Linear(3, 2, bias=False), torch.nn.Linear(3, 2, bias=False)
    unbroken = WeightAverage(whole, first=2)
    walk(unbroken, whole.weight, range(1, 9))
    unbroken.apply()
    first = WeightAverage(half, first=2)
    walk(first, half.weight, range(1, 5))
    first.save(tmp_path)
    second = WeightAverage(half, first=2)
    second.load(tmp_path)
    walk(second, half.weight, range(5, 9))
    second.apply()
    assert torch.equal(whole.weight, half.weight)


def test_a_checkpoint_before_the_first_step_taken_in(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2, bias=False)
    early = WeightAverage(model, first=5)
    early.add(1)
    early.save(tmp_path)
    later = WeightAverage(model, first=5)
    later.load(tmp_path)
    before = model.weight.detach().clone()
    later.apply()
    assert later.n == 0
    assert torch.equal(model.weight, before)
