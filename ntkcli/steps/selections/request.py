"""What `ntksel select` was asked for, resolved against the store and refused where it contradicts itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import Leaks
from ntkcli.doors import refuse_missing
from ntkcli.errors import UsageError
from ntkcli.progress import Progress
from ntkcli.selection.registry import SELECTORS
from ntkcli.steps.selections.filters import Listed, listed_rows
from ntkcli.steps.selections.leaks import TestFiles, test_files
from ntkcli.steps.selections.selectors import SelectorFeatures, features_to_compare
from ntkcli.steps.shared.lengths import SPEC_KEY, Encoding, lengths, settle_encoding
from ntkcli.steps.shared.sources import BY_SOURCE, rows_of_sources
from ntkcli.steps.shared.stores import require_current

VERSION = 1
"""Of the selectors, in every spec: goes up when the same scores would give other rows."""
EXPONENT = 0.5
"""The default of `--exponent`."""
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
    leaks: Leaks = Leaks.REMOVE
    tokens_of: str | None = None
    only: tuple[str, ...] = ()
    match_tokens: str | None = None
    candidates: int | None = None

    def files(self) -> list[str | Path]:
        """The files that are read."""
        return [*self.exclude, *self.must_include, *self.against, *files_of(self.only)]

    @property
    def counting(self) -> str | None:
        """The first option that counts tokens, None if none does."""
        given = (
            (self.match_tokens, "--match-tokens"),
            (self.token_budget, "--token-budget"),
            (self.min_tokens, "--min-tokens"),
            (self.max_tokens, "--max-tokens"),
        )
        return next((option for value, option in given if value is not None), None)

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
    features: SelectorFeatures | None
    first: Rows
    excluded: Rows
    listed: tuple[Listed, ...]
    tests: TestFiles
    encoding: Encoding | None
    allowed: Rows | None = None

    @property
    def data(self) -> str:
        """The pool's name."""
        return str(self.scores.attrs["data"])

    def spec(self) -> dict[str, Any]:
        """A plain `top` says no more than version 0.1 did, so that its selections are found."""
        said = {
            "exponent": self.exponent if "exponent" in SELECTORS.get(self.method).options else None,
            "features": sorted(self.features.parents.values()) if self.features else None,
            "centre": (self.features.centre or None) if self.features else None,
            "max_per_source": list(self.limits.max_per_source),
            "min_per_source": list(self.limits.min_per_source),
            "token_budget": self.limits.token_budget,
            "min_tokens": self.limits.min_tokens,
            "max_tokens": self.limits.max_tokens,
            SPEC_KEY: self.encoding.spec if self.encoding else None,
            "dedup": self.limits.dedup,
            "exclude": _digest(self.excluded),
            "only": None if self.allowed is None else _digest(self.allowed),
            "must_include": _digest(self.first),
            "against": self.tests.spec if self.tests.paths and self.limits.leaks == Leaks.REMOVE else None,
            "candidates": self.limits.candidates,
        }
        base = {"version": VERSION, "score": self.scores.fingerprint, "method": self.method}
        base["n"] = "auto" if self.auto else self.n
        base |= SELECTORS.spec(self.method)
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
    known: store.Artefact | None = None,
) -> Request:
    """The request that these options make; `how` are the features to compare, as `features_to_compare` takes them.

    `known` is the selection of this name that is there already.

    Raises:
        UsageError: an option is out of range, contradicts another, or names a file or row that there is not.
    """
    if known is not None:
        refuse_missing(known.spec, known.name)
    selector = SELECTORS.get(method)
    _check_exponent(method, exponent)
    _check_amount(n, limits)
    _check_candidates(method, n, limits)
    dataset = stored.get(f"datasets/{scores.attrs['data']}")
    first, excluded, allowed, listed = _listed_rows(stored, dataset, limits, progress)
    if limits.leaks == Leaks.IGNORE and limits.against:
        raise UsageError("--against is given with --leaks ignore.", "Leave one of them out.")
    if limits.tokens_of is not None and limits.counting is None:
        raise UsageError(
            "--tokens-of sets how tokens are counted, and nothing here counts tokens.",
            "Give --token-budget, --min-tokens or --max-tokens, or leave it out.",
        )
    needs_features = selector.needs_features or limits.tau is not None
    compared = features_to_compare(stored, scores, **how) if needs_features else None
    encoding = _encoding(stored, scores, limits, compared, known)
    if limits.match_tokens is not None and encoding is not None:
        budget = _tokens_of_selection(stored, limits.match_tokens, dataset, encoding, progress)
        limits = replace(limits, match_tokens=None, token_budget=budget)
    return Request(
        stored=stored,
        scores=scores,
        dataset=dataset,
        method=method,
        n=None if n == "auto" else n,
        auto=n == "auto",
        limits=limits,
        exponent=exponent,
        features=compared,
        first=first,
        excluded=excluded,
        listed=listed,
        tests=TestFiles((), given=False)
        if limits.leaks == Leaks.IGNORE
        else test_files(stored, limits.against, progress),
        encoding=encoding,
        allowed=allowed,
    )


def _check_candidates(method: str, n: int | Literal["auto"] | None, limits: Constraints) -> None:
    """UsageError if --candidates means nothing to the method, or is less than the rows asked for."""
    if limits.candidates is None:
        return
    if not SELECTORS.get(method).needs_features:
        raise UsageError(
            f"--candidates {limits.candidates}: --method {method} takes the rows by their scores, all of them.",
            "Leave it out, or give a method that compares features.",
        )
    if isinstance(n, int) and limits.candidates < n:
        raise UsageError(f"--candidates {limits.candidates} is less than -n {n}.", "Give more, or leave it out.")


def _check_exponent(method: str, exponent: float) -> None:
    if not 0 < exponent <= 1:
        raise UsageError(
            f"--exponent {exponent:g}: must be above 0 and at most 1.",
            "Give 1 for the highest mean cosines, a lower value to spread the choice.",
        )
    if exponent != EXPONENT and "exponent" not in SELECTORS.get(method).options:
        raise UsageError(f"--exponent does not apply to --method {method}.", "Give --method coverage, or leave it out.")


def _check_amount(n: int | Literal["auto"] | None, limits: Constraints) -> None:
    """UsageError if nothing, or two options, say how much is selected."""
    if limits.match_tokens is not None and limits.token_budget is not None:
        raise UsageError("--match-tokens and --token-budget both say how many tokens.", "Give one of them.")
    if n is None and limits.token_budget is None and limits.match_tokens is None:
        raise UsageError("-n is missing.", "Give -n N, -n auto or --token-budget TOKENS.")
    if isinstance(n, int) and n < 1:
        raise UsageError(f"-n {n}: there is nothing to select.", "Give -n 1 or more.")


def _listed_rows(
    stored: store.Store, dataset: store.Artefact, limits: Constraints, progress: Progress
) -> tuple[Rows, Rows, Rows | None, tuple[Listed, ...]]:
    """The rows of --must-include, of --exclude and of --only (None: all), and what the files of these name."""
    first, in_first = listed_rows(stored, dataset, limits.must_include, option="--must-include", strict=True)
    excluded, in_excluded = listed_rows(stored, dataset, limits.exclude, option="--exclude", strict=False)
    allowed, in_allowed = only_rows(stored, dataset, limits.only)
    given = ((in_first, limits.must_include), (in_excluded, limits.exclude), *((each, True) for each in in_allowed))
    listed = tuple(found for found, paths in given if paths)
    for each in listed:
        progress.note(each.told())
    if len(both := np.intersect1d(first, excluded)):
        row_id = dataset.take("row_id", both[:1])[0]
        raise UsageError(f"The row {row_id!r} is in --must-include and in --exclude.", "Take it out of one.")
    return first, excluded, allowed, listed


def _encoding(
    stored: store.Store, scores: store.Artefact, limits: Constraints, compared: SelectorFeatures | None,
    known: store.Artefact | None,
) -> Encoding | None:  # fmt: skip
    """How the pool's tokens are counted; None if no option counts any."""
    if limits.counting is None:
        return None
    return settle_encoding(
        stored,
        str(scores.attrs["data"]),
        option=limits.counting,
        tokens_of=limits.tokens_of,
        made_from=[scores, *([compared.pool] if compared else [])],
        known=known,
    )


def files_of(only: Sequence[str]) -> list[str]:
    """Of the values of `--only`, those that are files."""
    return [text for text in only if not text.startswith(BY_SOURCE)]


def only_rows(stored: store.Store, dataset: store.Artefact, given: Sequence[str]) -> tuple[Rows | None, list[Listed]]:
    """The rows (ascending) that `--only` allows, None for all: by selections, files of ids or rows, or `source=a,b`.

    Raises:
        UsageError: the pool has no such label, or none of a file's rows.
    """
    if not given:
        return None, []
    files = files_of(given)
    found, listed = listed_rows(stored, dataset, files, option="--only", strict=False)
    labelled = [rows_of_sources(dataset, text, option="--only")[0] for text in given if text.startswith(BY_SOURCE)]
    return np.unique(np.concatenate([found, *labelled])), [listed] if files else []


def _tokens_of_selection(
    stored: store.Store, name: str, dataset: store.Artefact, encoding: Encoding, progress: Progress
) -> int:
    """The tokens of all rows of a selection of this pool."""
    artefact = stored.get(f"selections/{store.check_name(name, '--match-tokens')}")
    pool = dataset.name.partition("/")[2]
    if artefact.attrs["data"] != pool:
        raise UsageError(
            f"--match-tokens {name}: it selects rows of {artefact.attrs['data']!r}, not of {pool!r}.",
            "Give a selection of the same pool.",
        )
    require_current(stored, artefact)
    rows = np.sort(artefact.read("row"))
    return int(lengths(stored, pool, encoding, rows, progress=progress)[rows].sum())


def _digest(rows: Rows) -> str | None:
    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:32] if len(rows) else None
