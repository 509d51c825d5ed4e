"""The plane against numpy's own singular values."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ntkcli.steps.reports import projection
from ntkcli.steps.reports.projection import pca, project


@pytest.mark.parametrize("shape", [(30, 7), (12, 90)])
def test_pca_is_that_of_the_singular_values(shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    left, values, _ = np.linalg.svd(rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64))
    expected = left[:, :2] * values[:2]
    found = pca(rows)
    np.testing.assert_allclose(np.abs(found.xy), np.abs(expected), atol=1e-6)
    np.testing.assert_allclose(found.explained, values[:2] ** 2 / (values**2).sum(), rtol=1e-6)
    assert (pca(rows).xy == found.xy).all()


def test_rows_that_are_alike_lie_on_one_point() -> None:
    found = pca(np.ones((5, 3), dtype=np.float32))
    assert np.abs(found.xy).max() < 1e-6
    assert found.explained == (0.0, 0.0)


def test_umap_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fake:
        def __init__(self, **settings: Any) -> None:
            assert settings["random_state"] == 0

        def fit_transform(self, rows: Any) -> Any:
            return np.full((len(rows), 2), 7.0)

    module = ModuleType("umap")
    module.UMAP = Fake  # type: ignore[attr-defined]
    module.__spec__ = ModuleSpec("umap", None)
    monkeypatch.setitem(sys.modules, "umap", module)
    found = project(np.zeros((20, 3), dtype=np.float32))
    assert found.method == "UMAP"
    assert (found.xy == 7.0).all()
    assert projection.project(np.zeros((3, 3), dtype=np.float32)).method == "PCA"  # too few for UMAP
