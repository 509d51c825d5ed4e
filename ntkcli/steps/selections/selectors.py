"""Run a selector over the rows that may be chosen, with the features that the score was made from."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.errors import UsageError
from ntkcli.progress import Progress, shown
from ntkcli.scoring.features import FeatureReader, Floats, Rows
from ntkcli.scoring.nearest import Nearest, nearest_rows
from ntkcli.scoring.similarity import CosineTarget
from ntkcli.selection.chooser import Bools, Chooser, Limits
from ntkcli.selection.registry import SELECTORS
from ntkcli.steps.scores.inputs import features_of

MAX_BYTES = 8 << 30
"""Of features or similarities in memory: what a workstation has to spare."""
UNASKED_BYTES = 3 << 29
"""Of the same where --candidates doesn't say how many rows may take part: it leaves the process under 2 GiB."""


@dataclass(frozen=True, slots=True)
class SelectorFeatures:
    """Features of the pool and of the domains that selectors compare; `centre` as the score has it."""

    pool: store.Artefact
    domains: tuple[store.Artefact, ...]
    centre: bool

    @property
    def parents(self) -> dict[str, str]:
        """Their names and fingerprints."""
        return {each.name: each.fingerprint for each in (self.pool, *self.domains)}


def features_to_compare(
    stored: store.Store, score: store.Artefact, *, feature: str | None, domains: Sequence[str], centre: bool
) -> SelectorFeatures:
    """The features that the score was made from, or those named.

    Raises:
        UsageError: the score was made from none, and none are named; or Adam's steps are to be centred.
    """
    data = str(score.attrs["data"])
    made_from = [name.split("/")[1:] for name in score.parents if name.startswith("features/")]
    if "domain" not in score.spec:  # drop reads losses that lie beside features, and compares none
        made_from = []
    feature = feature or next((which for _, which in made_from), None)
    known = [name for name, _ in made_from if name != data] or [name for name, _ in made_from]
    domains = list(domains) or known
    if feature is None or not domains:
        raise UsageError(
            f"{score.name} was not made from features, and this needs some.",
            "Give --feature NAME and --domain DATA.",
        )
    pool_side, domain_sides = features_of(
        stored, pool=data, domains=domains, feature=feature, pool_by_adam=score.spec["method"] == "less"
    )
    centre = centre or bool(score.spec.get("centre"))
    if centre and "adam" in pool_side.spec:
        raise UsageError(
            f"{pool_side.name} holds Adam's steps and the domain's side plain gradients, which share no mean, so they "
            "can't be compared centred.",
            "Leave --centre out; of a score made with it, score again.",
        )
    return SelectorFeatures(pool_side, tuple(domain_sides.values()), centre)


def refuse_without_memory(method: str, features: SelectorFeatures, candidates: int, *, unit: bool, named: bool) -> None:
    """UsageError if `candidates` rows take more memory than is allowed, in `method` and, with `unit`, for --dedup.

    `named`: --candidates gives their number.
    """
    selector = SELECTORS.get(method)
    dim = FeatureReader(features.pool, n=features.pool.n).dim
    need = 4 * candidates * dim if unit else 0
    if selector.memory is not None:
        need += selector.memory(candidates, dim, sum(side.n for side in features.domains))
    allowed = MAX_BYTES if named else UNASKED_BYTES
    if need > allowed:
        fit, most = candidates * UNASKED_BYTES // need, candidates * MAX_BYTES // need
        raise UsageError(
            f"--method {method} on {candidates:,} candidates needs {need / 2**30:.1f} GiB of memory"
            f"{' with --dedup' if unit else ''}; {allowed / 2**30:g} GiB are allowed.",
            f"Give --candidates N, for the N best by score that pass the filters: {fit:,} need "
            f"{UNASKED_BYTES / 2**30:g} GiB, and at most {most:,} are allowed ({MAX_BYTES >> 30} GiB).",
        )


class ComparedRows:
    """Rows that may be chosen (ascending) and their features, compared as the score compares them.

    `mean_over` are the rows whose mean is taken out when centred: all that are scored.
    """

    def __init__(self, features: SelectorFeatures, *, n: int, rows: Rows, mean_over: Rows) -> None:
        self._features, self._n, self.rows = features, n, rows
        domain = np.concatenate([FeatureReader(side, n=side.n).unit_rows() for side in features.domains])
        if not len(domain):
            raise UsageError("The domain has no row with features.", "Featurize a domain that has some.")
        with self._pass(mean_over) as scored:
            self.target = CosineTarget.of_rows(scored, domain, centre=features.centre)

    def of(self, rows: Rows) -> Self:
        """Other rows (ascending), compared in the same way."""
        other = copy.copy(self)
        other.rows = rows
        return other

    def unit(self) -> Floats:
        """Unit features of all candidates (n, p) float32. UsageError if they don't fit in memory."""
        self._check_bytes(self.target.domain.shape[1])
        found: Floats = np.empty((len(self.rows), self.target.domain.shape[1]), dtype=np.float32)
        with self._pass(self.rows) as reader:
            for block in reader.blocks():
                found[np.searchsorted(self.rows, block.rows)] = self.target.prepared(block.unit)
        return found

    def similar(self) -> Floats:
        """Cosines with the domain rows (n, n_domain) float32. UsageError if they don't fit in memory."""
        self._check_bytes(len(self.target.domain))
        found: Floats = np.empty((len(self.rows), len(self.target.domain)), dtype=np.float32)
        with self._pass(self.rows) as reader:
            for rows, similar in self.target.blocks(reader):
                found[np.searchsorted(self.rows, rows)] = similar.T
        return found

    def nearest(self, is_open: Bools, k: int) -> Nearest:
        """Each domain row's `k` nearest open candidates, as positions among the candidates."""
        with self._pass(self.rows[is_open]) as reader:
            found = nearest_rows(self.target, reader, k=k)
        return replace(found, rows=np.searchsorted(self.rows, found.rows))

    @contextmanager
    def _pass(self, rows: Rows) -> Iterator[FeatureReader]:
        """A reader of these rows for one pass, which is shown."""
        pool = self._features.pool
        with shown(f"reading {pool.name}", total=pool.n, unit="rows") as advance:
            yield FeatureReader(pool, n=self._n, only=rows, on_block=advance)

    def _check_bytes(self, width: int) -> None:
        need = 4 * width * len(self.rows)
        if need > MAX_BYTES:
            raise UsageError(
                f"{len(self.rows)} candidates of {width} numbers each need {need >> 30} GiB of memory.",
                "Give --candidates N, for the N rows with the highest scores.",
            )


def rows_with_features(features: SelectorFeatures, *, n: int) -> Rows:
    """The pool's rows that have features, ascending."""
    reader = FeatureReader(features.pool, n=n)
    return reader.covered[np.isfinite(features.pool.read("norm"))]


@dataclass(frozen=True, slots=True)
class _Arrays:
    """The `ntkcli.selection.registry.Candidates` of a selection; `vectors` are their unit features, once read."""

    score: Floats
    similarity: Floats
    exponent: float
    compared: ComparedRows | None
    vectors: Floats | None

    @property
    def domain(self) -> Floats:
        return self._compared.target.domain

    def unit(self) -> Floats:
        return self._compared.unit() if self.vectors is None else self.vectors

    def similar(self) -> Floats:
        return self._compared.similar()

    def nearest(self, is_open: Bools, k: int) -> Nearest:
        return self._compared.nearest(is_open, k)

    @property
    def _compared(self) -> ComparedRows:
        if self.compared is None:
            raise ValueError("a selector that looks at features must say so: needs_features=True")
        return self.compared


def choose(
    method: str,
    limits: Limits,
    *,
    score: NDArray[np.float32],
    similarity: NDArray[np.float32],
    first: Sequence[int],
    compared: ComparedRows | None,
    exponent: float,
    progress: Progress,
) -> Chooser:
    """Take the rows `first`, then fill up by `method`. All positions count the candidates, in ascending rows.

    `score` and `similarity` (n,) are the candidates'; `compared` holds their features, for selectors that need some.
    """
    if limits.tau is not None and compared is not None:
        limits = replace(limits, vectors=compared.unit())
    taken = _Taken(progress, f"choosing by {method}", limits.n or len(limits.source))
    chooser = Chooser(limits, on_take=taken.one_more)
    for row in first:
        if not (chooser.open[row] and chooser.take(row, np.nan)):
            raise UsageError(
                "The rows of --must-include break a quota, the token budget or --dedup among themselves.",
                "Take some out of the file, or loosen the constraint.",
            )
    if not chooser.done:
        selector = SELECTORS.get(method)
        with SELECTORS.blaming(method):
            selector.choose(chooser, _Arrays(score, similarity, exponent, compared, limits.vectors))
    taken.stop()
    return chooser


class _Taken:
    """The rows taken so far, shown from the first one on: before it, what the method reads has the bar."""

    def __init__(self, progress: Progress, label: str, total: int) -> None:
        self._progress, self._label, self._total = progress, label, total
        self._more = 0
        self._told: float | None = None

    def one_more(self) -> None:
        """Count a row; told to the progress ten times a second at most, since a row may take microseconds."""
        now = time.monotonic()
        if self._told is None:
            self._progress.start(self._label, total=self._total, unit="rows")
        self._more += 1
        if self._told is None or now - self._told > 0.1:
            self._progress.advance(self._more)
            self._more, self._told = 0, now

    def stop(self) -> None:
        """All are taken."""
        if self._told is not None:
            self._progress.advance(self._more)
            self._progress.stop()
