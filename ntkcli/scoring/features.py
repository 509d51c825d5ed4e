"""Stream the features of one artefact as float32 blocks, in terms of the data set's rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli import quantisation

Floats = NDArray[np.float32]
Wide = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows that have features: the data set's rows (b,), unit features (b, p), norms (b,) float64."""

    rows: Rows
    unit: Floats
    norm: Wide


class FeatureReader:
    """Reads a features artefact of either kind block by block; a row whose norm is NaN is left out.

    `n` counts the data set's rows, so that a score of it is an array (n,); `covered` are those the artefact has, less
    what `only` leaves out. `on_block` is told how many rows each block held.
    """

    def __init__(
        self,
        artefact: store.Artefact,
        *,
        n: int,
        only: Rows | None = None,
        on_block: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.artefact, self.n, self._on_block = artefact, n, on_block
        self._vectors = "embedding" if "embedding" in artefact.arrays else "sketch"
        self._held = [name for name in (self._vectors, quantisation.SCALE) if name in artefact.arrays]
        self.dim = int(artefact.arrays[self._vectors].tail[0])
        self._rows: Rows = artefact.read("row") if "row" in artefact.arrays else np.arange(artefact.n)
        self._keep = np.ones(artefact.n, dtype=np.bool_) if only is None else np.isin(self._rows, only)
        self.covered: Rows = self._rows[self._keep]

    def blocks(self) -> Iterator[Block]:
        """The rows in order, one part of the artefact at a time."""
        for where, arrays in self.artefact.blocks([*self._held, "norm"]):
            norm = arrays["norm"]
            keep = np.isfinite(norm) & self._keep[where]
            unit = quantisation.decode({name: arrays[name][keep] for name in self._held}, self._vectors)
            yield Block(self._rows[where][keep], unit, norm[keep].astype(np.float64))
            self._on_block(where.stop - where.start)

    def unit_rows(self) -> Floats:
        """All unit features at once, (rows, p) float32: for a domain, which is small."""
        return np.concatenate([block.unit for block in self.blocks()])

    def mean(self, *, raw: bool) -> Wide:
        """The mean feature (p,) float64: of unit rows or, `raw`, of rows at their own length, norm · unit."""
        total, count = np.zeros(self.dim), 0
        for block in self.blocks():
            weights = block.norm if raw else np.ones(len(block.rows))
            # Scaled to 1, since float32 sums of raw features would lose what float64 keeps.
            scale = float(weights.max(initial=0.0)) or 1.0
            total += ((weights / scale).astype(np.float32) @ block.unit).astype(np.float64) * scale
            count += len(block.rows)
        return total / max(1, count)
