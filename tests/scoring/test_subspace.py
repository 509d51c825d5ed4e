"""GIST against a dense singular value decomposition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ntkcli.api import score
from ntkcli.errors import UsageError
from ntkcli.steps.shared.stores import open_store
from tests.scoring.kit import make_store


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("subspace", [None, 0.6, 3])
def test_gist_is_the_cosine_in_the_domains_subspace(subspace: float | None, centre: bool, tmp_path: Path) -> None:
    path, pool, domain = make_store(tmp_path)
    score(
        path, pool="pool", domain="domain", method="gist", feature="embed", centre=centre, subspace=subspace, name="x"
    )
    a, x = unit(domain), unit(pool)
    if centre:
        mean = np.delete(x, 5, axis=0).mean(axis=0)
        a, x = unit(a - mean), unit(x - mean)
    values, vectors = np.linalg.eigh(a.T @ a)
    values, vectors = values[::-1], vectors[:, ::-1]
    share = subspace or 0.9
    k = share if share >= 1 else next(k for k in range(1, 9) if values[:k].sum() >= share * values.sum())
    basis = vectors[:, : int(k)]
    expected = (unit(x @ basis) @ unit(a @ basis).T).mean(axis=1)
    expected[5] = np.nan
    np.testing.assert_allclose(open_store(path).get("scores/x").read("score"), expected, atol=5e-6)


@pytest.mark.parametrize("subspace", [0.0, -1.0, 1.5, float("nan"), float("inf")])
def test_no_subspace_is_refused(subspace: float, tmp_path: Path) -> None:
    path, _, _ = make_store(tmp_path)
    with pytest.raises(UsageError, match="--subspace"):
        score(path, pool="pool", domain="domain", method="gist", feature="embed", subspace=subspace, name="x")
