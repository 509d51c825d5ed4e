"""Whitened scores against dense float64 products."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkcli.api import score
from ntkcli.errors import UsageError
from ntkcli.scoring.features import Block, Floats
from ntkcli.scoring.similarity import unit_rows
from ntkcli.scoring.whitening import Whitening, by_moment, by_rows
from ntkcli.steps.shared.stores import open_store
from tests.scoring.kit import cosines, make_store


@pytest.mark.parametrize("p", [8, 150], ids=["by moment", "by rows"])
@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("method", ["mean", "cosine", "max"])
def test_whitened_scores(method: str, centre: bool, p: int, tmp_path: Path) -> None:
    path, pool, domain = make_store(tmp_path, p=p)
    score(path, pool="pool", domain="domain", method=method, feature="embed", centre=centre, whiten=0.1, name="x")
    there = np.delete(pool, 5, axis=0)
    unit = there / np.linalg.norm(there, axis=1, keepdims=True)
    values, vectors = np.linalg.eigh(unit.T @ unit / len(unit))
    matrix = vectors @ np.diag((values + 0.1 * values.mean()) ** -0.5) @ vectors.T
    x, a, there = pool @ matrix, domain @ matrix, there @ matrix
    shift = there.mean(axis=0) if centre else 0.0
    similar = cosines(a, x, centre_on=there if centre else None)
    if method == "mean":
        expected = (x - shift) @ (a.mean(axis=0) - shift)
    else:
        expected = similar.mean(axis=0) if method == "cosine" else similar.max(axis=0)
    expected[5] = np.nan
    np.testing.assert_allclose(open_store(path).get("scores/x").read("score"), expected, rtol=1e-4, atol=2e-5)


def test_too_wide_or_undamped_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _, _ = make_store(tmp_path)
    how = {"pool": "pool", "domain": "domain", "method": "cosine", "feature": "embed", "name": "x"}
    for damping in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="--whiten"):
            score(path, whiten=damping, **how)  # type: ignore[arg-type]
    monkeypatch.setattr("ntkcli.steps.scores.methods.MAX_BYTES", 32 * 8 * 8 - 1)
    with pytest.raises(UsageError, match="--whiten: features of 8 numbers"):
        score(path, whiten=0.1, **how)  # type: ignore[arg-type]


class _Held:
    """Rows in memory in the place of a reader, a few a block."""

    def __init__(self, unit: Floats) -> None:
        self.unit, self.usable, self.dim = unit, *unit.shape

    def blocks(self) -> Iterator[Block]:
        for low in range(0, self.usable, 7):
            some = self.unit[low : low + 7]
            yield Block.of(np.arange(low, low + len(some)), some, np.ones(len(some)))


@pytest.mark.parametrize("damping", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize(("n", "p"), [(0, 5), (1, 20), (30, 200), (60, 60), (90, 20)])
def test_both_ways_are_the_dense_product(n: int, p: int, damping: float) -> None:
    draw = np.random.default_rng(n)
    rows = 0.2 * draw.normal(size=(n, p)) + draw.normal(size=p)
    rows[1:2] = 0
    rows[2:3] = rows[:1]  # fewer directions than rows
    unit = unit_rows(rows.astype(np.float32))
    values, vectors = np.linalg.eigh(unit.T.astype(np.float64) @ unit / max(1, n))
    values = np.maximum(values, 0)
    dense = (vectors * (values + damping * (values.mean() or 1.0)) ** -0.5) @ vectors.T
    features = np.concatenate([draw.normal(size=(300, p)), rows[:3]])
    expected = features @ dense
    atol = 1e-12 + 5e-5 * np.linalg.norm(expected, axis=1, keepdims=True)
    pool: Any = _Held(unit)
    ways: tuple[Whitening, ...] = (by_moment(pool, damping=damping), by_rows(pool, damping=damping))
    for whitening in ways:
        for dtype in (np.float32, np.float64):
            given: Any = features.astype(dtype)
            found = whitening.of(given)
            assert found.dtype == dtype
            assert (np.abs(found - expected) <= atol).all()


def test_few_rows_make_no_matrix_of_all_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _, _ = make_store(tmp_path, n=12, p=4096)
    monkeypatch.setattr("ntkcli.scoring.whitening.by_moment", None)
    monkeypatch.setattr("ntkcli.steps.scores.methods.MAX_BYTES", 1 << 20)
    score(path, pool="pool", domain="domain", method="cosine", feature="embed", whiten=0.1, name="x")
    assert np.isfinite(open_store(path).get("scores/x").read("score")).sum() == 11
