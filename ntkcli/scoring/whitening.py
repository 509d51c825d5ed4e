"""Whiten features by the pool's second moment: x becomes (C + λI)^(-1/2) x on both sides (TAROT, 2412.00420).

C = mean_j u(x_j) u(x_j)' over the pool's unit features (p, p) float64, λ = damping · mean eigenvalue of C. Methods then
compare what results as they compare features. One pass; O(n · p² + p³) time, about 4 p² float64 in memory.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from ntkcli.scoring.features import Block, FeatureReader, Floats, Wide
from ntkcli.scoring.similarity import unit_rows

MAX_BYTES = 4 << 30
"""Of C and what its eigenvectors take."""


def whitening_bytes(p: int) -> int:
    """What whitening features of p numbers takes: four matrices (p, p) float64."""
    return 32 * p * p


def whitener(pool: FeatureReader, *, damping: float) -> Floats:
    """(C + λI)^(-1/2) (p, p) float32, symmetric."""
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
    found: Floats = ((vectors / np.sqrt(shrunk)) @ vectors.T).astype(np.float32)
    return found


class WhitenedReader(FeatureReader):
    """Another reader's features, whitened: unit rows of the whitened features, and their norms."""

    _matrix: Floats

    @classmethod
    def of(cls, reader: FeatureReader, matrix: Floats) -> Self:
        """The same rows of the same artefact."""
        found = cls(reader.artefact, n=reader.n, only=reader.covered, on_block=reader._on_block)
        found._matrix = matrix
        return found

    def _prepared(self, block: Block) -> Block:
        white = block.unit @ self._matrix
        length = np.linalg.norm(white, axis=1).astype(np.float32)
        return Block.of(block.rows, unit_rows(white), block.norm * length)
