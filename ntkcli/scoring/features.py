"""Stream the features of one artefact as float32, in terms of the data set's rows."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli import feature_encoding
from ntkcli.scoring.parts import Buffers, SharedPart
from ntkcli.scoring.threads import in_order, one_thread_each, workers

Floats = NDArray[np.float32]
Wide = NDArray[np.float64]
Rows = NDArray[np.int64]
T = TypeVar("T")

NORM = "norm"
CACHED_BYTES = 1 << 21
"""Of decoded rows at a time, for one product with each: in a core's caches, and enough to seldom need the GIL."""
MANY_ROWS = 1024
"""Rows at a time for products with many domain rows: enough for a matrix product to run at full speed."""
SPAN_BYTES = 32 << 20
"""Of decoded rows that one thread is given at a time, in whole blocks: all of a part, unless it is a large one."""
AHEAD_BYTES = 8 << 20
"""Of stored rows that one thread reads before it works on them, in whole parts."""
FEW_PRODUCTS = 4
"""So many vectors are multiplied with a matrix one by one."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A cache's worth of a block: its rows (b,), features (b, p) before their `scale` (b,), norms (b,) float64.

    The unit features are `steps` times `scale`, or `steps` where that is None. `steps` are gone with the next piece.
    """

    rows: Rows
    steps: Floats
    scale: Floats | None
    norm: Wide


class Block:
    """Some rows that have features: the data set's rows (b,), norms (b,) float64 and unit features (b, p)."""

    def __init__(self, rows: Rows, norm: Wide, held: Mapping[str, NDArray[Any]], vectors: str) -> None:
        self.rows, self.norm = rows, norm
        self._held, self._vectors = held, vectors
        self.dim = int(held[vectors].shape[1])

    @classmethod
    def of(cls, rows: Rows, unit: Floats, norm: Wide) -> Self:
        """Of unit features that are at hand."""
        found = cls(rows, norm, {"unit": unit}, "unit")
        found.__dict__["unit"] = unit
        return found

    @functools.cached_property
    def unit(self) -> Floats:
        """The unit features (b, p)."""
        return feature_encoding.decode(self._held, self._vectors)

    def pieces(self) -> Iterator[Piece]:
        """The rows in order, as few at a time as stay in a core's cache."""
        rows, scale = self._held[self._vectors], self._held.get(feature_encoding.SCALE)
        at_once = max(1, CACHED_BYTES // (4 * rows.shape[1]))
        scratch = _scratch(at_once, rows.shape[1])
        for low in range(0, len(rows), at_once):
            some = slice(low, low + at_once)
            steps = feature_encoding.unscaled(rows[some], scratch)
            yield Piece(self.rows[some], steps, None if scale is None else scale[some], self.norm[some])


_Span = tuple[SharedPart | None, int, slice]


class _Scratch(threading.local):
    """A thread's own memory for decoded rows: memory allocated for each block is cleared by the kernel each time."""

    rows: Floats = np.empty((0, 0), dtype=np.float32)


_SCRATCH = _Scratch()


def _scratch(rows: int, dim: int) -> Floats:
    """An array (rows, dim) of this thread, whose content goes with the next call."""
    if _SCRATCH.rows.shape != (rows, dim):
        _SCRATCH.rows = np.empty((rows, dim), dtype=np.float32)
    return _SCRATCH.rows


class FeatureReader:
    """Reads a features artefact of either kind block by block; a row whose norm is NaN is left out.

    `n` counts the data set's rows, so that a score of it is an array (n,); `covered` are those the artefact has, less
    what `only` leaves out. `on_block` is given the number of rows each part held.
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
        self._held = [name for name in (self._vectors, feature_encoding.SCALE, NORM) if name in artefact.arrays]
        self.dim = int(artefact.arrays[self._vectors].tail[0])
        self._rows: Rows = artefact.read("row") if "row" in artefact.arrays else np.arange(artefact.n)
        self._keep = np.ones(artefact.n, dtype=np.bool_) if only is None else np.isin(self._rows, only)
        self.covered: Rows = self._rows[self._keep]

    def blocks(self) -> Iterator[Block]:
        """The rows in order, MANY_ROWS at a time, decoded ahead of their use."""

        def decoded(block: Block) -> Block:
            return Block.of(block.rows, block.unit, block.norm)

        return self.each(decoded)

    def each(self, work: Callable[[Block], T]) -> Iterator[T]:
        """What `work` makes of each block, in order. It is called in several threads at once, for a block in each.

        Parts are read and checked in these threads, a few ahead; parts without a row that is wanted are passed over.
        Only what `work` returns outlives the block.
        """
        self.artefact.refuse_incomplete()
        threads = workers(AHEAD_BYTES + 12 * self.dim * MANY_ROWS)
        large = self.artefact.part_rows > self._span_rows
        count = 2 if large else threads * -(-self._batch_rows // self.artefact.part_rows)
        buffers = Buffers(self.artefact, self._held, count=count)
        tasks = (functools.partial(self._batch, spans, work) for spans in self._batches(buffers))
        for rows, found in in_order(tasks, threads=threads):
            yield from found
            self._on_block(rows)

    def _batches(self, buffers: Buffers) -> Iterator[list[_Span]]:
        """Spans that one thread reads and then works on: many of small parts, since threads that wait cost time."""
        batch: list[_Span] = []
        for span in self._spans(buffers):
            batch.append(span)
            if sum(rows.stop - rows.start for _, _, rows in batch) >= self._batch_rows:
                yield batch
                batch = []
        if batch:
            yield batch

    def _batch(self, spans: list[_Span], work: Callable[[Block], T]) -> tuple[int, list[T]]:
        """How many rows the spans have, and what `work` makes of their blocks.

        All are read before the first is worked on: reads of small parts and products would wait for each other's GIL.
        """
        parts = [part for part, _, _ in spans if part is not None]
        try:
            for part in parts:
                part.arrays()
            found = [each for span in spans for each in self._span(*span, work)]
        finally:
            for part in parts:
                part.done()
        return sum(rows.stop - rows.start for _, _, rows in spans), found

    def _spans(self, buffers: Buffers) -> Iterator[_Span]:
        """All parts cut into spans: the part (None where no row of it is wanted), its first row and the span's rows."""
        for i in range(self.artefact.n_parts):
            start, stop = self.artefact.part_bounds(i)
            if not self._keep[start:stop].any():
                yield None, start, slice(start, stop)
                continue
            lows = range(start, stop, self._span_rows)
            part = SharedPart(buffers, i, users=len(lows))
            yield from ((part, start, slice(low, min(low + self._span_rows, stop))) for low in lows)

    def _span(self, part: SharedPart | None, first: int, rows: slice, work: Callable[[Block], T]) -> list[T]:
        """What `work` makes of the blocks of a span."""
        found: list[T] = []
        if part is None:
            return found
        arrays = part.arrays()
        for low in range(rows.start, rows.stop, MANY_ROWS):
            high = min(low + MANY_ROWS, rows.stop)
            ids, held = self._rows[low:high], {name: each[low - first : high - first] for name, each in arrays.items()}
            keep = self._keep[low:high] & np.isfinite(held[NORM])
            if not keep.all():
                ids, held = ids[keep], {name: each[keep] for name, each in held.items()}
            found.append(work(self._prepared(Block(ids, held[NORM].astype(np.float64), held, self._vectors))))
        return found

    def _prepared(self, block: Block) -> Block:
        """The block as this reader gives it."""
        return block

    @functools.cached_property
    def _span_rows(self) -> int:
        return MANY_ROWS * max(1, SPAN_BYTES // (4 * self.dim * MANY_ROWS))

    @functools.cached_property
    def _batch_rows(self) -> int:
        stored = self.artefact.arrays[self._vectors].row_bytes
        return max(1, min(self._span_rows, AHEAD_BYTES // stored))

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
        """Of all rows (n,)."""
        return self.artefact.read(NORM)

    def unit_rows(self) -> Floats:
        """All unit features at once, (rows, p) float32: for a domain, which is small."""
        found = [block.unit for block in self.blocks()]
        return np.concatenate(found) if found else np.zeros((0, self.dim), dtype=np.float32)

    def mean(self, *, raw: bool) -> Wide:
        """The mean feature (p,) float64: of unit rows or, `raw`, of rows at their own length. One pass for both."""
        found: Wide = self._means[int(raw)]
        return found

    @functools.cached_property
    def _means(self) -> Wide:
        """The mean unit row and the mean row, (2, p) float64."""
        total, count = np.zeros((2, self.dim)), 0
        with one_thread_each():
            for sums, rows in self.each(_sums):
                total += sums
                count += rows
        return total / max(1, count)


class HeldRows:
    """Rows that are in memory as one block, in the place of a domain's features."""

    def __init__(self, block: Block) -> None:
        self._block = block

    def unit_rows(self) -> Floats:
        """The unit features (rows, p)."""
        return self._block.unit

    def mean(self, *, raw: bool) -> Wide:
        """The mean feature, as `FeatureReader.mean`."""
        total, count = _sums(self._block)
        found: Wide = total[int(raw)] / max(1, count)
        return found


class Side(Protocol):
    """Domain rows that a pool is compared with."""

    def unit_rows(self) -> Floats:
        """All unit features (rows, p)."""

    def mean(self, *, raw: bool) -> Wide:
        """The mean feature (p,), of unit rows or of raw ones."""


def few_products(few: Floats, many: Floats) -> Floats:
    """The matrix product `few` (k, m) @ `many` (m, n), for a small k row by row of `few`.

    OpenBLAS packs `many` first: at k = 2 one product takes two to four times as long as two with vectors.
    """
    found: Floats = few @ many if len(few) > FEW_PRODUCTS else np.stack([each @ many for each in few])
    return found


def _sums(block: Block) -> tuple[Wide, int]:
    """The sums of a block's unit rows and of its rows, (2, p), and how many there are."""
    total: Wide = np.zeros((2, block.dim))
    # Norms scaled to 1, since float32 sums of raw features would lose what float64 keeps.
    longest = float(block.norm.max(initial=0.0)) or 1.0
    weights = np.stack([np.ones(len(block.rows)), block.norm / longest]).astype(np.float32)
    done = 0
    for piece in block.pieces():
        some = weights[:, done : done + len(piece.rows)]
        total += few_products(some if piece.scale is None else some * piece.scale, piece.steps)
        done += len(piece.rows)
    total[1] *= longest
    return total, len(block.rows)
