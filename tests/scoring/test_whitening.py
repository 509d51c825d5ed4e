"""Whitened scores against dense float64 products."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ntkcli.api import score
from ntkcli.errors import UsageError
from ntkcli.steps.shared.stores import open_store
from tests.scoring.kit import cosines, make_store


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("method", ["mean", "cosine", "max"])
def test_whitened_scores(method: str, centre: bool, tmp_path: Path) -> None:
    path, pool, domain = make_store(tmp_path)
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
    monkeypatch.setattr("ntkcli.steps.scores.methods.MAX_BYTES", 100)
    with pytest.raises(UsageError, match="--whiten: features of 8 numbers"):
        score(path, whiten=0.1, **how)  # type: ignore[arg-type]
