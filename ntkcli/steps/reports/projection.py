"""Vectors on a plane: UMAP where it is installed, else the two first principal components."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Plane:
    """Coordinates (n, 2) float64 by `method`; `explained` is the share of variance in each axis, () for UMAP."""

    xy: NDArray[np.float64]
    method: str
    explained: tuple[float, ...]


def project(vectors: NDArray[np.float32]) -> Plane:
    """The rows (n, p) on a plane; the same for the same rows. Memory: n by n numbers."""
    if find_spec("umap") is not None and len(vectors) > 15:
        import umap

        made: Any = umap.UMAP(n_components=2, metric="cosine", random_state=0)
        return Plane(np.asarray(made.fit_transform(vectors), dtype=np.float64), "UMAP", ())
    return pca(vectors)


def pca(vectors: NDArray[np.float32]) -> Plane:
    """Two principal components, from the n by n products, so p may be large; the largest entry of each is positive."""
    n = len(vectors)
    if n < 2:
        return Plane(np.zeros((n, 2)), "PCA", (0.0, 0.0))
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    values, axes = np.linalg.eigh(centred @ centred.T)
    values, axes = np.maximum(values[::-1], 0.0), axes[:, ::-1]
    xy = np.zeros((n, 2))
    for i in range(2):
        axis = axes[:, i] * np.sqrt(values[i])
        xy[:, i] = axis if axis[np.argmax(np.abs(axis))] >= 0 else -axis
    total = float(values.sum()) or 1.0
    return Plane(xy, "PCA", (float(values[0]) / total, float(values[1]) / total))
