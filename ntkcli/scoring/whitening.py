"""Whiten features by the pool's second moment: x becomes (C + λI)^(-1/2) x on both sides (TAROT, 2412.00420).

C = mean_j u(x_j) u(x_j)' over the pool's n unit features (p, p), λ = damping · mean eigenvalue of C. Methods then
compare what results as they compare features. One pass. Two ways, whichever takes less memory:

- The eigenvectors of C, O(n · p² + p³) time.
- Of few rows, those of U U' / n = Q diag(v) Q', U the unit features (n, p), O(n² · p + n³) time. C's other eigenvalues
  are 0, so that

      (C + λI)^(-1/2) = λ^(-1/2) I - F'F,   F = diag(w)^(1/2) Q' U / √n,
      w = (λ^(-1/2) - (v + λ)^(-1/2)) / v = 1 / (√λ √(v + λ) (√λ + √(v + λ)))

  where the second form of w needs no eigenvalue above 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import numpy as np

from ntkcli.scoring.features import Block, FeatureReader, Floats, Wide
from ntkcli.scoring.similarity import unit_rows

MAX_BYTES = 4 << 30
"""Of the matrix and what its eigenvectors take."""
ROWS = 128
"""So many rows are whitened at a time in float64."""
Features = TypeVar("Features", Floats, Wide)


def whitening_bytes(p: int, *, rows: int) -> int:
    """What whitening features of p numbers by a pool of so many rows takes."""
    return min(_bytes_of_moment(p), _bytes_of_rows(p, rows))


def _bytes_of_moment(p: int) -> int:
    """Four matrices (p, p) float64."""
    return 32 * p * p


def _bytes_of_rows(p: int, rows: int) -> int:
    """The rows and F, (rows, p) float64, and four matrices (rows, rows) float64."""
    return 16 * rows * p + 32 * rows * rows


class Whitening(Protocol):
    """(C + λI)^(-1/2), symmetric."""

    def of(self, features: Features) -> Features:
        """The whitened features (b, p), of the same dtype."""


@dataclass(frozen=True, slots=True)
class ByMoment:
    """It is `matrix` (p, p) float32."""

    matrix: Floats

    def of(self, features: Features) -> Features:
        """As `Whitening.of`."""
        found: Features = features @ self.matrix
        return found


@dataclass(frozen=True, slots=True)
class ByRows:
    """It is scale · I - F'F with F = `factor` (n, p) float64."""

    factor: Wide
    scale: float

    def of(self, features: Features) -> Features:
        """As `Whitening.of`. In float64, since both terms are much longer than what is left of frequent directions."""
        found = np.empty_like(features)
        for low in range(0, len(features), ROWS):
            some = features[low : low + ROWS].astype(np.float64)
            found[low : low + ROWS] = self.scale * some - (some @ self.factor.T) @ self.factor
        return found


def whitener(pool: FeatureReader, *, damping: float) -> Whitening:
    """What whitens by the rows of this pool."""
    if _bytes_of_rows(pool.dim, pool.usable) < _bytes_of_moment(pool.dim):
        return by_rows(pool, damping=damping)
    return by_moment(pool, damping=damping)


def by_moment(pool: FeatureReader, *, damping: float) -> ByMoment:
    """From the eigenvectors of C."""
    moment: Wide = np.zeros((pool.dim, pool.dim))
    count = 0
    for block in pool.blocks():
        wide = block.unit.astype(np.float64)
        moment += wide.T @ wide
        count += len(wide)
    moment /= max(1, count)
    values, vectors = np.linalg.eigh(moment)
    values = np.maximum(values, 0.0)
    shrunk = values + damping * (values.mean() or 1.0)
    return ByMoment(((vectors / np.sqrt(shrunk)) @ vectors.T).astype(np.float32))


def by_rows(pool: FeatureReader, *, damping: float) -> ByRows:
    """The same from the eigenvectors of U U' / n."""
    unit: Wide = np.empty((pool.usable, pool.dim))
    count = 0
    for block in pool.blocks():
        unit[count : count + len(block.rows)] = block.unit
        count += len(block.rows)
    values, vectors = np.linalg.eigh(unit @ unit.T / max(1, count))
    values = np.maximum(values, 0.0)
    shift = damping * (values.sum() / pool.dim or 1.0)
    least, roots = np.sqrt(shift), np.sqrt(values + shift)
    weights = 1 / (least * roots * (least + roots) * max(1, count))
    return ByRows((np.sqrt(weights)[:, None] * vectors.T) @ unit, float(1 / least))


class WhitenedReader(FeatureReader):
    """Another reader's features, whitened: unit rows of the whitened features, and their norms."""

    _whitening: Whitening

    @classmethod
    def of(cls, reader: FeatureReader, whitening: Whitening) -> Self:
        """The same rows of the same artefact."""
        found = cls(reader.artefact, n=reader.n, only=reader.covered, on_block=reader._on_block)
        found._whitening = whitening
        return found

    def _prepared(self, block: Block) -> Block:
        white = self._whitening.of(block.unit)
        length = np.linalg.norm(white, axis=1).astype(np.float32)
        return Block.of(block.rows, unit_rows(white), block.norm * length)
