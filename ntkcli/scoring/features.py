"""Stream the features of one artefact as float32 blocks, in terms of the data set's rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli import feature_encoding

Floats = NDArray[np.float32]
Wide = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows that have features: the data set's rows (b,), unit features (b, p), norms (b,) float64."""

    rows: Rows
    unit: Floats
    norm: Wide


CACHED_BYTES = 1 << 18
"""Of decoded rows at a time, for one product with each: a core's L2 cache holds them."""
MANY_ROWS = 1024
"""Rows at a time for products with many domain rows: enough for a matrix product to run at full speed."""


class FeatureReader:
    """Reads a features artefact of either kind block by block; a row whose norm is NaN is left out.

    `n` counts the data set's rows, so that a score of it is an array (n,); `covered` are those the artefact has, less
    what `only` leaves out. `on_block` is told how many rows each part held.
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
        self._held = [name for name in (self._vectors, feature_encoding.SCALE) if name in artefact.arrays]
        self.dim = int(artefact.arrays[self._vectors].tail[0])
        self._rows: Rows = artefact.read("row") if "row" in artefact.arrays else np.arange(artefact.n)
        self._keep = np.ones(artefact.n, dtype=np.bool_) if only is None else np.isin(self._rows, only)
        self.covered: Rows = self._rows[self._keep]
        self._means: dict[bool, Wide] = {}

    def blocks(self, *, cached: bool = False) -> Iterator[Block]:
        """The rows in order, MANY_ROWS at a time or, `cached`, as few as stay in a core's cache.

        The next part is read while this one is used, into one of two buffers of a part's size; parts without a row that
        is wanted are passed over.
        """
        at_once = max(1, CACHED_BYTES // (4 * self.dim)) if cached else MANY_ROWS
        wanted = self._keep & np.isfinite(self._norm)
        for part, arrays in self._parts(wanted):
            start, stop = self.artefact.part_bounds(part)
            for low in range(start, stop if arrays else start, at_once):
                high = min(low + at_once, stop)
                keep = wanted[low:high]
                held = {name: values[low - start : high - start] for name, values in arrays.items()}
                if not keep.all():
                    held = {name: values[keep] for name, values in held.items()}
                unit = feature_encoding.decode(held, self._vectors)
                yield Block(self._rows[low:high][keep], unit, self._norm[low:high][keep].astype(np.float64))
            self._on_block(stop - start)

    @property
    def usable(self) -> int:
        """How many of the covered rows have features."""
        return int((self._keep & np.isfinite(self._norm)).sum())

    def measured(self) -> NDArray[np.bool_]:
        """Which of the data set's rows have features here, (n,)."""
        found = np.zeros(self.n, dtype=np.bool_)
        found[self._rows[self._keep & np.isfinite(self._norm)]] = True
        return found

    @functools.cached_property
    def _norm(self) -> Floats:
        """Of all rows (n,); IncompleteError if some are not done, before anything is computed."""
        return self.artefact.read("norm")

    def _parts(self, wanted: NDArray[np.bool_]) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        """Each part with its arrays, read one ahead; none where no row is wanted."""
        buffers = [{name: self.artefact.empty_part(name) for name in self._held} for _ in range(2)]

        def read(part: int) -> dict[str, NDArray[Any]]:
            if part == self.artefact.n_parts or not wanted[slice(*self.artefact.part_bounds(part))].any():
                return {}
            return {name: self.artefact.read_part(name, part, out) for name, out in buffers[part % 2].items()}

        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(read, 0)
            for part in range(self.artefact.n_parts):
                arrays = ahead.result()
                ahead = reader.submit(read, part + 1)
                yield part, arrays

    def unit_rows(self) -> Floats:
        """All unit features at once, (rows, p) float32: for a domain, which is small."""
        found = [block.unit for block in self.blocks()]
        return np.concatenate(found) if found else np.zeros((0, self.dim), dtype=np.float32)

    def mean(self, *, raw: bool) -> Wide:
        """The mean feature (p,) float64: of unit rows or, `raw`, of rows at their own length. One pass, once."""
        if raw not in self._means:
            self._means[raw] = self._mean(raw=raw)
        return self._means[raw]

    def _mean(self, *, raw: bool) -> Wide:
        total, count = np.zeros(self.dim), 0
        for block in self.blocks(cached=True):
            weights = block.norm if raw else np.ones(len(block.rows))
            # Scaled to 1, since float32 sums of raw features would lose what float64 keeps.
            scale = float(weights.max(initial=0.0)) or 1.0
            total += ((weights / scale).astype(np.float32) @ block.unit).astype(np.float64) * scale
            count += len(block.rows)
        return total / max(1, count)
