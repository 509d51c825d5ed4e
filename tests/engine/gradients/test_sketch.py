"""The sketch as a random projection: unbiased, of the stated variance, and the same bits everywhere."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkcli.engine.gradients.sketch import Sketch
from ntkcli.engine.hashing import hash_u64, signs

CPU = torch.device("cpu")


def sketch_of(gradient: np.ndarray, *, dim: int, seed: int, name: str = "layer.lora_B") -> np.ndarray:
    """One factor's gradient (r, d), sketched as the engine does it."""
    sketch = Sketch(dim, seed, CPU)
    factor = sketch.factor(name, *gradient.shape)
    total = sketch.zeros(1)
    sketch.add(total, torch.tensor(gradient[None], dtype=torch.float32) * factor.alpha[:, None], factor)
    return sketch.finish(total)[0].numpy().astype(np.float64)


@pytest.mark.parametrize(("rank", "columns", "dim"), [(4, 50, 64), (8, 40, 16), (2, 100, 32)])
def test_dot_products_are_unbiased_with_the_stated_variance(rank: int, columns: int, dim: int) -> None:
    """Var <= (|a|^2 |b|^2 + <a,b>^2)/p over seeds, also for gradients whose rows share their large columns."""
    draw = np.random.default_rng(0)
    common = np.exp(2 * draw.normal(size=columns))  # outlier columns, the same in every row, as in real models
    a, b = (draw.normal(size=(rank, columns)) * common for _ in range(2))
    b += 0.5 * a
    exact = float((a * b).sum())
    n = 1500
    found = np.array([sketch_of(a, dim=dim, seed=s) @ sketch_of(b, dim=dim, seed=s) for s in range(n)])
    bound = float(((a**2).sum() * (b**2).sum() + exact**2) / dim)
    assert abs(found.mean() - exact) < 4 * np.sqrt(bound / n)
    assert found.var() < 1.25 * bound


def test_sketch_is_linear() -> None:
    draw = np.random.default_rng(1)
    a, b = draw.normal(size=(2, 3, 20))
    left = sketch_of(2 * a - b, dim=16, seed=3)
    np.testing.assert_allclose(left, 2 * sketch_of(a, dim=16, seed=3) - sketch_of(b, dim=16, seed=3), atol=1e-5)


@settings(max_examples=50)
@given(rank=st.integers(1, 5), columns=st.integers(1, 70), dim=st.integers(1, 40), seed=st.integers(0, 2**40))
def test_every_coordinate_lands_once(rank: int, columns: int, dim: int, seed: int) -> None:
    """A gradient of one nonzero coordinate becomes one nonzero bucket of the same size."""
    gradient = np.zeros((rank, columns))
    gradient[rank - 1, columns - 1] = 3.0
    found = sketch_of(gradient, dim=dim, seed=seed)
    assert np.count_nonzero(found) == 1
    assert abs(found).max() == 3.0


def test_hash_is_uniform_and_differs_by_name() -> None:
    draws = hash_u64(0, "a", 100_000).astype(np.float64) / 2.0**64
    assert abs(draws.mean() - 0.5) < 4 / np.sqrt(12 * 100_000)
    assert abs(float(signs(0, "a", 100_000).mean())) < 4 / np.sqrt(100_000)
    for other in (hash_u64(1, "a", 1000), hash_u64(0, "b", 1000)):
        assert not np.intersect1d(hash_u64(0, "a", 1000), other).size


GOLDEN = "d626cd98138a958c"


def test_same_bits_in_a_fresh_process() -> None:
    """The hash must never change: stores on disk depend on it. `VERSION` would have to go up."""
    code = (
        "import hashlib; from ntkcli.engine.gradients.sketch import hash_u64;"
        "print(hashlib.sha256(hash_u64(7, 'model.layers.0.q_proj.lora_B|offset', 4096).tobytes()).hexdigest()[:16])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = hash_u64(7, "model.layers.0.q_proj.lora_B|offset", 4096)
    assert ran.stdout.strip() == hashlib.sha256(here.tobytes()).hexdigest()[:16] == GOLDEN
