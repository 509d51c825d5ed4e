"""Which rows may still be chosen: quotas, budgets and near-duplicates, the same for every method.

Works on candidates 0..n-1 in the order of the data set; must not know stores, scores or files. A row that is closed
stays closed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

FIRST_VECTORS = 256
"""Rows of the first array of vectors taken; it doubles."""
AUTO_SHARE = 0.05
"""Of the first row's gain: below this a further row adds nothing that its cost is worth, and `-n auto` stops."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the chosen rows must obey. `source` (n,) are codes, `most` and `least` rows of each code.

    `n` None means as many as gain something (`-n auto`) or fit `token_budget`. `tau` is the highest cosine between two
    chosen rows, whose unit features are `vectors` (n, p).
    """

    source: Ints
    n: int | None = None
    auto: bool = False
    most: dict[int, int] | None = None
    least: dict[int, int] | None = None
    tokens: Ints | None = None
    token_budget: int | None = None
    tau: float | None = None
    vectors: Floats | None = None


class Chooser:
    """The rows chosen so far, in order (`taken`, with their `gains`), and those still `open` (n,) bool.

    `on_take` is called for each row that is taken.
    """

    def __init__(self, limits: Limits, *, on_take: Callable[[], None] = lambda: None) -> None:
        self._limits, self._on_take = limits, on_take
        self.open: Bools = np.ones(len(limits.source), dtype=np.bool_)
        self.taken: list[int] = []
        self.gains: list[float] = []
        self.closed_by: Counter[str] = Counter()
        self._per_source: Counter[int] = Counter()
        self._tokens_left = limits.token_budget
        # Cut where no row fits any more, so that sums of unknown lengths stay small numbers.
        cut = (limits.token_budget or 0) + 1
        self._tokens = None if limits.tokens is None else np.minimum(limits.tokens, cut)
        self._spent = False
        self._first_gain: float | None = None
        self._vectors: Floats = np.empty((0, 0), dtype=np.float32)
        self._close_full(list(limits.most or ()))
        self._close_by_budget()
        self._close_for_least()

    @property
    def wanted(self) -> int | None:
        """How many rows to take in all, None for as many as go."""
        return self._limits.n

    @property
    def auto(self) -> bool:
        """Whether the gains decide how many rows are taken."""
        return self._limits.auto

    @property
    def done(self) -> bool:
        """Whether nothing more can or need be taken."""
        full = self._limits.n is not None and len(self.taken) >= self._limits.n
        return full or self._spent or not self.open.any()

    def take(self, row: int, gain: float) -> bool:
        """Take an open row, worth `gain`. False, and the row is closed, if it is too like one that was taken.

        With `-n auto` a gain below AUTO_SHARE of the first one ends the choosing instead. ValueError for a closed row.
        """
        if not self.open[row]:
            raise ValueError(f"candidate {row} is closed: it was taken, or breaks a constraint")
        if self._limits.auto and self._first_gain is not None and gain < AUTO_SHARE * self._first_gain:
            self._spent = True
            return False
        self.open[row] = False
        if self._too_like(row):
            self.closed_by["--dedup"] += 1
            self._close_by_budget()  # it may have been one of the short rows that a minimum counts on
            return False
        if self._first_gain is None and np.isfinite(gain):
            self._first_gain = gain
        self.taken.append(row)
        self.gains.append(gain)
        source = int(self._limits.source[row])
        self._per_source[source] += 1
        self._close_full([source])
        if self._tokens_left is not None and self._tokens is not None:
            self._tokens_left -= int(self._tokens[row])
        self._close_by_budget()
        self._close_for_least()
        self._on_take()
        return True

    def best(self, gains: NDArray[np.float64]) -> int:
        """The open row with the highest gain (n,); ties go to the earlier row."""
        return int(np.argmax(np.where(self.open, gains, -np.inf)))

    def _too_like(self, row: int) -> bool:
        """Whether a row that was taken is too like it; if none is, its vector is kept, in one array with the others."""
        vectors, tau = self._limits.vectors, self._limits.tau
        if tau is None or vectors is None:
            return False
        count = len(self.taken)
        if count and (self._vectors[:count] @ vectors[row]).max() > tau:
            return True
        if count == len(self._vectors):
            more = np.empty((max(FIRST_VECTORS, 2 * count), vectors.shape[1]), dtype=vectors.dtype)
            more[:count] = self._vectors.reshape(count, vectors.shape[1])
            self._vectors = more
        self._vectors[count] = vectors[row]
        return False

    def _close_full(self, sources: list[int]) -> None:
        for source in sources:
            cap = (self._limits.most or {}).get(source)
            if cap is not None and self._per_source[source] >= cap:
                self._close(self._limits.source == source, "--max-per-source")

    def _close_by_budget(self) -> None:
        """Leave open the rows that fit beside the shortest ones that make up each source's minimum.

        A row of such a source stands for the longest of these, whose tokens it need not leave.
        """
        if self._tokens_left is None or self._tokens is None:
            return
        spare = self._tokens_left
        instead = np.zeros(int(self._limits.source.max(initial=0)) + 1, dtype=np.int64)
        for source, missing in self.owed().items():
            lengths = self._tokens[self.open & (self._limits.source == source)]
            if len(shortest := np.sort(lengths)[:missing]):
                spare -= int(shortest.sum())
                instead[source] = shortest[-1]
        self._close(self._tokens > spare + instead[self._limits.source], "--token-budget")

    def _close_for_least(self) -> None:
        """Once the places left are all owed to sources below their least number, only those stay open."""
        owed = self.owed()
        if owed and self._limits.n is not None and self._limits.n - len(self.taken) <= sum(owed.values()):
            self._close(~np.isin(self._limits.source, list(owed)), "--min-per-source")

    def owed(self) -> dict[int, int]:
        """How many rows each source still lacks of its least number, where it lacks any."""
        least = (self._limits.least or {}).items()
        return {source: rows - self._per_source[source] for source, rows in least if rows > self._per_source[source]}

    def _close(self, rows: Bools, option: str) -> None:
        closing = rows & self.open
        self.closed_by[option] += int(closing.sum())
        self.open &= ~rows
