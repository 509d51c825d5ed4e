"""What `ntksel select` was asked for, resolved against the store and refused where it contradicts itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.errors import UsageError
from ntkcli.progress import Progress
from ntkcli.steps.selections.filters import listed_rows
from ntkcli.steps.selections.leaks import TestFiles, test_files
from ntkcli.steps.selections.selectors import METHODS, Sides, sides_of

VERSION = 1
"""Of the selectors, in every spec: goes up when the same scores would give other rows."""
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Constraints:
    """What the chosen rows must obey: the options of `ntksel select` of the same names. Nothing by default."""

    max_per_source: tuple[str, ...] = ()
    min_per_source: tuple[str, ...] = ()
    token_budget: int | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None
    dedup: str | None = None
    exclude: tuple[Path, ...] = ()
    must_include: tuple[Path, ...] = ()
    against: tuple[Path, ...] = ()
    leaks: Literal["remove", "report", "ignore"] = "remove"

    @property
    def tau(self) -> float | None:
        """The highest cosine that `--dedup TAU` allows, None for exact, minhash or no dedup."""
        if self.dedup in (None, "exact", "minhash"):
            return None
        try:
            tau = float(str(self.dedup))
        except ValueError:
            tau = np.nan
        if not 0 < tau <= 1:
            raise UsageError(f"--dedup {self.dedup} is not known.", "Give exact, minhash or a cosine from 0 to 1.")
        return tau


@dataclass(frozen=True, slots=True)
class Request:
    """All that decides which rows are chosen, resolved against the store."""

    stored: store.Store
    scores: store.Artefact
    dataset: store.Artefact
    method: str
    n: int | None
    auto: bool
    limits: Constraints
    exponent: float
    sides: Sides | None
    first: Rows
    excluded: Rows
    tests: TestFiles

    @property
    def data(self) -> str:
        """The pool's name."""
        return str(self.scores.attrs["data"])

    def spec(self) -> dict[str, Any]:
        """A plain `top` says no more than version 0.1 did, so that its selections are found."""
        said = {
            "exponent": self.exponent if self.method == "coverage" else None,
            "features": sorted(self.sides.parents.values()) if self.sides else None,
            "centre": (self.sides.centre or None) if self.sides else None,
            "max_per_source": list(self.limits.max_per_source),
            "min_per_source": list(self.limits.min_per_source),
            "token_budget": self.limits.token_budget,
            "min_tokens": self.limits.min_tokens,
            "max_tokens": self.limits.max_tokens,
            "dedup": self.limits.dedup,
            "exclude": _digest(self.excluded),
            "must_include": _digest(self.first),
            "against": self.tests.spec if self.tests.paths and self.limits.leaks == "remove" else None,
        }
        base = {"version": VERSION, "score": self.scores.fingerprint, "method": self.method}
        base["n"] = "auto" if self.auto else self.n
        return base | {key: value for key, value in said.items() if value not in (None, [])}


def resolve_request(
    stored: store.Store,
    scores: store.Artefact,
    *,
    method: str,
    n: int | Literal["auto"] | None,
    exponent: float,
    limits: Constraints,
    progress: Progress,
    how: dict[str, Any],
) -> Request:
    """The request that these options make; `how` are the features to compare, as `sides_of` takes them.

    Raises:
        UsageError: an option is out of range, contradicts another, or names a file or row that there is not.
    """
    if method not in METHODS:
        raise UsageError(f"--method {method} is not known.", f"Give one of: {', '.join(METHODS)}.")
    if not 0 < exponent <= 1:
        raise UsageError(f"--exponent {exponent:g} is not above 0 and at most 1.", "Give 1 for top, less for spread.")
    if n is None and limits.token_budget is None:
        raise UsageError("-n is missing.", "Give -n N, -n auto or --token-budget TOKENS.")
    if isinstance(n, int) and n < 1:
        raise UsageError(f"-n {n}: there is nothing to select.", "Give -n 1 or more.")
    dataset = stored.get(f"datasets/{scores.attrs['data']}")
    first = listed_rows(dataset, limits.must_include, option="--must-include", strict=True)
    excluded = listed_rows(dataset, limits.exclude, option="--exclude", strict=False)
    if len(both := np.intersect1d(first, excluded)):
        row_id = dataset.take("row_id", both[:1])[0]
        raise UsageError(f"The row {row_id!r} is in --must-include and in --exclude.", "Take it out of one.")
    if limits.leaks == "ignore" and limits.against:
        raise UsageError("--against is given with --leaks ignore.", "Leave one of them out.")
    needs_features = method != "top" or limits.tau is not None
    return Request(
        stored=stored,
        scores=scores,
        dataset=dataset,
        method=method,
        n=None if n == "auto" else n,
        auto=n == "auto",
        limits=limits,
        exponent=exponent,
        sides=sides_of(stored, scores, **how) if needs_features else None,
        first=first,
        excluded=excluded,
        tests=TestFiles((), given=False) if limits.leaks == "ignore" else test_files(stored, limits.against, progress),
    )


def _digest(rows: Rows) -> str | None:
    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:32] if len(rows) else None
