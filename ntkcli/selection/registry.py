"""The selectors by name (`select --method`): what one is, and the door for those of other packages.

Must not import numpy when it is imported, so that `--help` lists the names at no cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from ntkcli.doors import Door

if TYPE_CHECKING:
    from ntkcli.scoring.features import Floats
    from ntkcli.scoring.nearest import Nearest
    from ntkcli.selection.chooser import Bools, Chooser


class Candidates(Protocol):
    """The rows that may be chosen, 0..n-1 in the order of the data set, as arrays.

    `score` (n,) float32, and `similarity` (n,) float32 that breaks ties (NaN: nothing does). The rest is there for
    selectors that need features: `domain` (n_domain, p) float32 are unit features of the domain rows, and all features
    are compared as the score compared them (centred or not).
    """

    @property
    def score(self) -> Floats:
        """Scores (n,)."""
        ...

    @property
    def similarity(self) -> Floats:
        """What breaks ties between equal scores (n,)."""
        ...

    @property
    def domain(self) -> Floats:
        """Unit features of the domain rows (n_domain, p)."""
        ...

    @property
    def exponent(self) -> float:
        """The value of `--exponent`."""
        ...

    def unit(self) -> Floats:
        """Unit features (n, p) float32, in memory at once. UsageError if they don't fit."""
        ...

    def similar(self) -> Floats:
        """Cosines with the domain rows (n, n_domain) float32. UsageError if they don't fit in memory."""
        ...

    def nearest(self, is_open: Bools, k: int) -> Nearest:
        """Each domain row's `k` nearest candidates among those that are open, streaming over the features."""
        ...


@dataclass(frozen=True, slots=True)
class Selector:
    """A way to select.

    `choose(chooser, candidates)` gives the rows it wants, best first, to `chooser.take(row, gain)` until
    `chooser.done`; only rows that are `chooser.open` may be taken. The chooser keeps to quotas, budgets, `-n` and
    `--dedup`. `summary` goes into the help. `options` are those of the command that change what it chooses
    ("exponent"), and so stand in the spec; `packages` are those whose versions are recorded with the result.
    `needs_features`: it compares features; `keeps_gains`: the gains say more than the scores do.
    `memory(n, p, n_domain)` are the bytes that it takes for n candidates of p numbers, if it holds something for each:
    it is asked before any work.
    """

    choose: Callable[[Chooser, Candidates], None]
    summary: str
    needs_features: bool = True
    options: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    keeps_gains: bool = True
    memory: Callable[[int, int, int], int] | None = None


def _top(chooser: Chooser, candidates: Candidates) -> None:
    from ntkcli.selection.top import choose_top

    choose_top(chooser, candidates.score, candidates.similarity)


def _by_turns(chooser: Chooser, candidates: Candidates) -> None:
    from ntkcli.selection.round_robin import choose_by_turns

    choose_by_turns(chooser, candidates.nearest, n_domain=len(candidates.domain))


def _by_herding(chooser: Chooser, candidates: Candidates) -> None:
    import numpy as np

    from ntkcli.selection.herding import choose_by_herding

    choose_by_herding(chooser, candidates.unit(), candidates.domain.mean(axis=0, dtype=np.float64))


def _by_coverage(chooser: Chooser, candidates: Candidates) -> None:
    from ntkcli.selection.coverage import choose_by_coverage

    choose_by_coverage(chooser, candidates.similar(), exponent=candidates.exponent)


def _by_transport(chooser: Chooser, candidates: Candidates) -> None:
    from ntkcli.selection.transport import choose_by_mass, transported_mass

    choose_by_mass(chooser, transported_mass(candidates.similar(), candidates.unit()))


SELECTORS: Final = Door(
    "ntksel.selectors",
    Selector,
    thing="selector",
    option="--method",
    builtin={
        "top": Selector(_top, "the highest scores", needs_features=False, keeps_gains=False),
        "round-robin": Selector(_by_turns, "domain rows take turns"),
        "herding": Selector(_by_herding, "match the mean feature of the domain", memory=lambda n, p, _: 4 * n * p),
        "coverage": Selector(
            _by_coverage,
            "serve all domain rows",
            options=("exponent",),
            memory=lambda n, _, n_domain: 4 * n * n_domain,
        ),
        "ot": Selector(
            _by_transport,
            "optimal transport",
            packages=("POT", "scipy"),
            memory=lambda n, p, n_domain: 4 * n * p + 36 * n * n_domain,  # of cosines: float32, and four as float64
        ),
    },
)
