"""How features are kept: exact bounds of the error, and what plain numpy reads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ntkcli import feature_encoding
from ntkcli.steps.features.arrays import MOST_PARTS, PART_BYTES, default_part_rows

ROWS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-1, 1, width=32))


@given(unit=ROWS)
def test_int8_is_within_half_a_step_and_keeps_the_largest(unit: np.ndarray) -> None:
    held = feature_encoding.encode(unit, "sketch", "int8")
    assert (held["sketch"].dtype, held["scale"].dtype) == (np.int8, np.float32)
    back = held["sketch"].astype(np.float64) * held["scale"].astype(np.float64)[:, None]
    step = np.abs(unit.astype(np.float64)).max(axis=1) / 127
    assert (
        np.abs(back - unit) <= step[:, None] * (0.5 + 1e-4) + 1e-43
    ).all()  # 127 half steps of what float32 can hold
    np.testing.assert_allclose(feature_encoding.decode(held, "sketch"), back, rtol=1e-6, atol=1e-44)
    np.testing.assert_array_equal(feature_encoding.encode(-unit, "sketch", "int8")["sketch"], -held["sketch"])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_floats_are_kept_as_they_are(dtype: str) -> None:
    unit = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    held = feature_encoding.encode(unit, "sketch", dtype)
    assert list(held) == ["sketch"]
    np.testing.assert_array_equal(feature_encoding.decode(held, "sketch"), unit.astype(dtype).astype(np.float32))


def test_every_finite_float16_is_decoded_exactly() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)].reshape(-1, 1)
    found = feature_encoding.decode({"sketch": every}, "sketch")
    np.testing.assert_array_equal(found.view(np.uint32), every.astype(np.float32).view(np.uint32))
    apart = every[::3]  # not contiguous
    np.testing.assert_array_equal(feature_encoding.decode({"sketch": apart}, "sketch"), apart.astype(np.float32))


@pytest.mark.parametrize("kind", ["ntk", "embed"])
@pytest.mark.parametrize("n", [1, 1000, 262_144, 1_800_000, 10_000_000, 100_000_000])
@pytest.mark.parametrize("row_bytes", [1200, 16_393, 32_777, 1 << 20])
def test_parts_are_few_and_fit_in_memory(kind: str, n: int, row_bytes: int) -> None:
    rows = default_part_rows(kind, n, row_bytes)
    least = {"ntk": 256, "embed": 1024}[kind]
    assert rows % least == 0
    assert rows * row_bytes <= PART_BYTES or rows == least
    assert -(-n // rows) <= MOST_PARTS or (rows + least) * row_bytes > PART_BYTES
    assert rows == least or n / rows > MOST_PARTS / 2  # and no larger than they need be
