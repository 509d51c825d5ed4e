"""The sketch's kernel as the card runs it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ntkcli.engine.gradients import sketch
from ntkcli.engine.gradients.sketch import Sketch


def test_triton_is_used(device: torch.device) -> None:
    sketch.one_kernel.cache_clear()
    assert sketch.one_kernel(device) is not None


@pytest.mark.parametrize(
    ("rows", "rank", "columns", "dim"),
    [(64, 16, 4096, 8192), (16, 16, 14336, 8192), (3, 8, 896, 4096), (2, 1, 1, 1), (5, 3, 100, 33)],
)
def test_bits_of_the_plain_loop_on_both_devices(
    device: torch.device, rows: int, rank: int, columns: int, dim: int
) -> None:
    gradient = torch.randn(rows, rank + 2, columns, generator=torch.Generator().manual_seed(0))[:, 1:-1]
    found = []
    for place, kernel in ((torch.device("cpu"), None), (device, None), (device, sketch.one_kernel(device))):
        made = Sketch(dim, 3, place, add_factor=kernel)
        factor, total = made.factor("layer", rank, columns), made.zeros(rows)
        here = gradient.to(place)
        for _ in range(2):
            made.add(total, here, factor)
        found.append(made.finish(total).cpu().numpy())
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
