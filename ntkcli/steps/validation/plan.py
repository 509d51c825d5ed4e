"""Which rows each training run of a validation gets. Pure numpy: reads no file, knows no store and no model.

Everything is drawn from the seeds and the arrays given, so the same validation has the same plan on every machine.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ntkcli.errors import DataError, UsageError
from ntkcli.statistics.validation import FEWEST_SUBSETS, subsets_for

BASE, DOMAIN, RANDOM, ORACLE, BIN, UNIFORM, MIXTURE = DESIGNS = (
    "base", "domain", "random", "oracle", "bin", "uniform", "mixture",
)  # fmt: skip
"""What a run is trained on; its code in the store is its position here. `base` is not trained."""
SUBSETS: Final = (UNIFORM, MIXTURE)
DEFAULT_ROWS: Final = 256
"""Rows of a run at most, unless given: enough for a few hundred steps' worth of visits together with a small domain."""
CANDIDATES_PER_ROW: Final = 4
"""Rows drawn from a bin for each row that is taken: lengths can be matched, and seeds get different rows."""
MIXTURE_GROUPS: Final = 10
"""Groups of a score's ranks that mixtures are made of where the pool has a single source."""
USEFUL_LDS: Final = 0.5
"""The LDS that a message asks enough subsets for: what good scores reach at full size (TRAK, table 1)."""

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One training run: its rows of the pool, ascending; `score` and `bin` are positions or -1, bin 0 is the best."""

    design: str
    seed: int
    rows: Rows
    score: int = -1
    bin: int = -1


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The rows that may be drawn: `rows` (C,) ascending; per row `tokens` (C,), `source` (C,) codes, and per score
    `scores` (S, C) finite and `ties` (S, C). `oracle` (O,) int64 are rows of these known to be right, None without.
    """

    rows: Rows
    tokens: Rows
    source: Rows
    scores: Floats
    ties: Floats
    oracle: Rows | None = None


@dataclass(frozen=True, slots=True)
class Design:
    """What is asked for: `edges` in percent of the ranks, best first, or () for no bins; `subsets` 0 for none."""

    edges: tuple[float, ...]
    subsets: int
    n: int
    seeds: tuple[int, ...]


def parse_bins(text: str) -> tuple[float, ...]:
    """The upper edges of the bins in percent of the ranks, best first: "5" is 20, 40, ..., 100; or "1,5,20,50,100".

    Raises:
        UsageError: it is neither a number of bins, 2 or more, nor rising edges up to 100.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 1 and values[0].is_integer() and 2 <= values[0] <= 100:
        return tuple(100 * (i + 1) / int(values[0]) for i in range(int(values[0])))
    rising = all(a < b for a, b in zip([0.0, *values], values, strict=False))
    if len(values) < 2 or not rising or values[-1] > 100:
        raise UsageError(
            f"--bins {text}: expected a number of equal bins, or rising edges in percent.",
            "Give 5, or edges such as 1,5,20,50,100.",
        )
    return tuple(values)


def check_subsets(subsets: int) -> None:
    """UsageError if so few subsets say nothing about an LDS, with the number that would."""
    if subsets < FEWEST_SUBSETS:
        raise UsageError(
            f"--subsets {subsets}: too few to say anything; even an LDS of {USEFUL_LDS} needs "
            f"{subsets_for(USEFUL_LDS)} subsets to show in four cases of five.",
            f"Give {subsets_for(USEFUL_LDS)} or more, or --design bins.",
        )


def order_of(score: Floats, tie: Floats) -> Rows:
    """Positions from the best score to the worst; equal scores by `tie`, then by a fixed shuffle (not by place)."""
    shuffle = np.random.default_rng(0).permutation(len(score))
    return np.lexsort((shuffle, -np.nan_to_num(tie, nan=-np.inf, neginf=-np.inf), -score)).astype(np.int64)


def cut(order: Rows, edges: Sequence[float]) -> list[Rows]:
    """The positions of each bin, best first."""
    ends = [round(len(order) * edge / 100) for edge in edges]
    return [order[start:stop] for start, stop in zip([0, *ends], ends, strict=False)]


def default_rows(pool: Pool, edges: Sequence[float]) -> int:
    """Rows of a run: half of the smallest bin (so that seeds differ), the oracle's if it has fewer; at most 256."""
    sizes = [len(own) for own in cut(np.arange(len(pool.rows)), edges)] if edges else [len(pool.rows)]
    most = [DEFAULT_ROWS, min(sizes) // 2]
    if pool.oracle is not None:
        most.append(len(pool.oracle))
    return max(1, min(most))


def make_runs(pool: Pool, design: Design, names: Sequence[str]) -> list[Run]:
    """All runs in the order in which they are trained: what every seed shares first, then bins, then subsets.

    `names` are the scores', for messages.

    Raises:
        DataError: a bin, the pool or the oracle has too few rows.
    """
    _check_room(pool, design, names)
    lengths = np.random.default_rng([design.n, 1]).choice(pool.tokens, size=design.n)
    runs = [Run(BASE, design.seeds[0], np.zeros(0, dtype=np.int64))]
    for seed in design.seeds:
        runs.append(Run(DOMAIN, seed, np.zeros(0, dtype=np.int64)))
        runs.append(Run(RANDOM, seed, _matched(pool, np.arange(len(pool.rows)), lengths, [seed, 2])))
        if pool.oracle is not None:
            own = np.searchsorted(pool.rows, pool.oracle)
            runs.append(Run(ORACLE, seed, _matched(pool, own, lengths, [seed, 3])))
    bins = [cut(order_of(score, tie), design.edges) for score, tie in zip(pool.scores, pool.ties, strict=True)]
    for seed in design.seeds:  # seed by seed: what is done early says something about every bin
        for s, of_score in enumerate(bins if design.edges else []):
            for b, positions in enumerate(of_score):
                runs.append(Run(BIN, seed, _matched(pool, positions, lengths, [seed, 4, s, b]), s, b))
    return runs + _subsets(pool, design)


def _check_room(pool: Pool, design: Design, names: Sequence[str]) -> None:
    if design.edges:
        sizes = [len(own) for own in cut(np.arange(len(pool.rows)), design.edges)]
        smallest = int(np.argmin(sizes))
        if sizes[smallest] < design.n:
            low = [0.0, *design.edges][smallest]
            raise DataError(
                f"The bin from {low:g}% to {design.edges[smallest]:g}% of {', '.join(names)} has {sizes[smallest]} "
                f"rows that every score scores, and each run takes {design.n}.",
                f"Give --rows {sizes[smallest]} or fewer, or wider --bins."
                if sizes[smallest]
                else "Give wider --bins, or scores of more rows.",
            )
    if len(pool.rows) < design.n:
        raise DataError(
            f"{len(pool.rows)} rows are scored by all of {', '.join(names)}, and each run takes {design.n}.",
            "Give fewer --rows, or scores that share more rows.",
        )
    if pool.oracle is not None and len(pool.oracle) < design.n:
        raise DataError(
            f"--oracle has {len(pool.oracle)} rows among those that every score scores, and each run takes {design.n}.",
            f"Give --rows {len(pool.oracle)} or fewer, or an oracle with more rows.",
        )


def _matched(pool: Pool, positions: Rows, lengths: Rows, salt: Sequence[int]) -> Rows:
    """One row for each of `lengths` out of the rows at `positions`, none twice: the nearest in tokens that is left.

    Among equals the order is random, by `salt`.
    """
    rng = np.random.default_rng(list(salt))
    n = min(len(positions), CANDIDATES_PER_ROW * len(lengths))
    drawn = rng.permutation(positions)[:n]
    left = drawn[np.argsort(pool.tokens[drawn], kind="stable")].tolist()
    tokens = pool.tokens[left].tolist()
    taken = []
    for length in rng.permutation(lengths).tolist():
        at = bisect_left(tokens, length)
        if at == len(tokens) or (at > 0 and length - tokens[at - 1] < tokens[at] - length):
            at -= 1
        taken.append(left.pop(at))
        tokens.pop(at)
    return pool.rows[np.sort(np.array(taken, dtype=np.int64))]


def _subsets(pool: Pool, design: Design) -> list[Run]:
    """The subsets of all scores: every second one is a mixture, whose sums differ more than those of plain draws."""
    runs = []
    for i in range(design.subsets):
        rng = np.random.default_rng([design.n, 5, i])
        if i % 2 == 0:
            rows = np.sort(rng.choice(pool.rows, size=design.n, replace=False))
            runs.append(Run(UNIFORM, design.seeds[0], rows))
        else:
            runs.append(Run(MIXTURE, design.seeds[0], _mixture(pool, design.n, i // 2, rng)))
    return runs


def _mixture(pool: Pool, n: int, number: int, rng: np.random.Generator) -> Rows:
    """Rows of groups in shares that are drawn evenly from all there are (Dirichlet), each group at random.

    Groups are the pool's sources; where there is one alone, tenths of a score's ranks, the scores in turns.
    """
    groups = [np.flatnonzero(pool.source == code) for code in np.unique(pool.source)]
    if len(groups) == 1:
        s = number % len(pool.scores)
        groups = list(np.array_split(order_of(pool.scores[s], pool.ties[s]), MIXTURE_GROUPS))
    shares = rng.dirichlet(np.ones(len(groups)))
    wanted = rng.multinomial(n, shares)
    taken = [rng.permutation(group)[:count] for group, count in zip(groups, wanted.tolist(), strict=True)]
    found = np.concatenate(taken)
    if len(found) < n:  # a group ran out
        rest = np.setdiff1d(np.arange(len(pool.rows)), found)
        found = np.concatenate([found, rng.choice(rest, size=n - len(found), replace=False)])
    chosen: Rows = pool.rows[np.sort(found)]
    return chosen
