"""Select rows by score and features under constraints, and keep the selection."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.errors import UsageError
from ntkcli.progress import Progress, Silent
from ntkcli.selection.chooser import Chooser, Limits
from ntkcli.selection.quotas import check_quotas, parse_quotas
from ntkcli.selection.top import top
from ntkcli.steps.choose import METHODS, Candidates, Sides, choose, rows_with_features, sides_of
from ntkcli.steps.decontaminate import TestFiles, find_leaks, test_files, write_report
from ntkcli.steps.eligible import Eligible, keep_first_of_repeats, keep_lengths, listed_rows
from ntkcli.steps.explain import write_explanations
from ntkcli.steps.export import Format, export_rows, export_scores
from ntkcli.steps.inputs import DATASET_PART_ROWS, open_store, require_spec, write_rows
from ntkcli.steps.score_inputs import token_counts

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
class SelectResult:
    """The artefact, its number of rows out of those scored, the lowest score taken, the mix, and the export.

    `removed` counts, when the selection was made just now, the scored rows that each constraint took out.
    """

    artefact: str
    rows: int
    scored: int
    lowest: float
    sources: dict[str, int]
    export: str | None
    digest: str
    removed: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Request:
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


def select(
    store_path: str | Path,
    *,
    score: str,
    n: int | Literal["auto"] | None,
    name: str,
    method: str = "top",
    exponent: float = 0.5,
    constraints: Constraints | None = None,
    feature: str | None = None,
    domain: Sequence[str] = (),
    centre: bool = False,
    export: str | Path | None = None,
    schema: Format = "own",
    scores_export: str | Path | None = None,
    explain: bool = False,
    progress: Progress | None = None,
) -> SelectResult:
    """Write `selections/<name>`: `n` rows of the pool of `scores/<score>` in rank order, and export them.

    `n` "auto" stops when a further row gains less than 5% of the first; None takes what fits `token_budget`, which also
    ends a selection of fixed `n` early. Methods: `ntkcli.selection`; all but top compare features, by default those
    that the score was made from, else `feature` and `domain`. Only scored rows are chosen, none twice.

    `export` and `schema` are `export_rows`' path and schema, `scores_export` is a parquet file for all scores of the
    pool; `explain` writes `reports/<name>-why.jsonl`.

    Raises:
        UsageError: constraints contradict each other or leave fewer than `n` rows; it says which one, and by how much.
    """
    progress = progress or Silent()
    stored = open_store(store_path)
    scores = stored.get(f"scores/{store.check_name(score, '--score')}")
    stored.check_parents(scores)
    request = _request(
        stored,
        scores,
        method=method,
        n=n,
        exponent=exponent,
        limits=constraints or Constraints(),
        progress=progress,
        how={"feature": feature, "domains": domain, "centre": centre},
    )
    path = f"selections/{store.check_name(name, '--name')}"
    known = stored.find(path)
    removed: dict[str, int] = {}
    if known is not None and known.complete:
        spec = request.spec()
        if not request.tests.given and request.limits.leaks == "remove":  # evals may have come since
            spec = {key: value for key, value in spec.items() if key != "against"}
            spec |= {"against": known.spec["against"]} if "against" in known.spec else {}
        require_spec(known, spec)
        stored.check_parents(known)
        progress.note(f"{known.name} is finished already")
        artefact = known
    else:
        rows, gains, removed = _choose(request, name, progress)
        artefact = _write(request, path, rows, gains)
    if export is not None:
        export_rows(stored, request.dataset, artefact, Path(export), schema=schema)
        progress.note(f"wrote {export}")
    if scores_export is not None:
        export_scores(stored, request.dataset, Path(scores_export))
        progress.note(f"wrote {scores_export}")
    if explain:
        progress.note(f"wrote {write_explanations(stored, artefact)}")
    return SelectResult(
        artefact=artefact.name,
        rows=artefact.n,
        scored=int((~np.isnan(scores.read("score"))).sum()),
        lowest=float(np.nanmin(artefact.read("score"))),
        sources=_mix(request.dataset, artefact),
        export=None if export is None else str(export),
        digest=artefact.digest(),
        removed={option: count for option, count in removed.items() if count},
    )


def _request(
    stored: store.Store,
    scores: store.Artefact,
    *,
    method: str,
    n: int | Literal["auto"] | None,
    exponent: float,
    limits: Constraints,
    progress: Progress,
    how: dict[str, Any],
) -> _Request:
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
    return _Request(
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


def _choose(request: _Request, name: str, progress: Progress) -> tuple[Rows, NDArray[np.float64], dict[str, int]]:
    """The chosen rows in order, their gains, and how many scored rows each constraint took out."""
    score, similarity = request.scores.read("score"), request.scores.read("similarity")
    scored = np.flatnonzero(~np.isnan(score))
    order = top(score, similarity, len(scored))
    eligible = _eligible(request, scored, order=order, name=name, progress=progress)
    if request.n is not None and request.n > len(eligible.rows):
        took = eligible.binding()
        left = f", of which constraints leave {len(eligible.rows)} ({took})" if took else ""
        raise UsageError(
            f"-n {request.n}: {request.scores.name} has {len(scored)} scored rows of {request.scores.n}{left}.",
            f"Give -n from 1 to {len(eligible.rows)}" + (", or loosen them." if took else "."),
        )
    if not len(eligible.rows):
        raise UsageError(f"Nothing is left to select: {eligible.binding() or 'no row is scored'}.", "Loosen it.")
    limits = _limits(request, eligible.rows)
    progress.note(f"selecting from {len(eligible.rows)} rows by {request.method}")
    candidates = None
    if request.sides is not None:
        candidates = Candidates(request.sides, n=request.dataset.n, rows=eligible.rows, mean_over=scored)
    chooser = choose(
        request.method,
        limits,
        score=score[eligible.rows],
        similarity=similarity[eligible.rows],
        first=np.searchsorted(eligible.rows, request.first).tolist(),
        candidates=candidates,
        exponent=request.exponent,
    )
    _refuse_too_few(request, chooser, len(eligible.rows))
    removed = eligible.removed | {option: count for option, count in chooser.closed_by.items() if option == "--dedup"}
    return eligible.rows[chooser.taken], np.array(chooser.gains), removed


def _eligible(request: _Request, scored: Rows, *, order: Rows, name: str, progress: Progress) -> Eligible:
    """The scored rows that pass every filter; rows that must be in have to pass them too."""
    limits, stored = request.limits, request.stored
    eligible = Eligible(scored)
    eligible.keep(~np.isin(eligible.rows, request.excluded), "--exclude")
    if request.sides is not None:
        have = rows_with_features(request.sides, n=request.dataset.n)
        eligible.keep(np.isin(eligible.rows, have), "rows without features")
    if limits.min_tokens is not None or limits.max_tokens is not None:
        keep_lengths(eligible, stored, request.data, min_tokens=limits.min_tokens, max_tokens=limits.max_tokens)
    if request.tests.paths:
        _drop_leaks(request, eligible, name, progress)
    if limits.dedup in ("exact", "minhash"):
        near = limits.dedup == "minhash"
        keep_first_of_repeats(eligible, stored, request.data, near=near, order=order, first=request.first)
    if len(lost := np.setdiff1d(request.first, eligible.rows)):
        row_id = request.dataset.take("row_id", lost[:1])[0]
        raise UsageError(
            f"--must-include has {len(lost)} rows that can't be chosen, such as {row_id!r}: they have no score, or "
            f"{eligible.binding() or 'no features'}.",
            "Take them out of the file, or loosen the constraint.",
        )
    return eligible


def _drop_leaks(request: _Request, eligible: Eligible, name: str, progress: Progress) -> None:
    """Report the pairs of pool rows and test items and, unless only that was asked for, leave the rows out."""
    leaked, pairs = find_leaks(request.stored, request.data, eligible.rows, request.tests)
    if pairs:
        path = write_report(request.stored, name, pairs)
        done = "left out" if request.limits.leaks == "remove" else "found, not left out"
        progress.note(f"{len(pairs)} rows that hold test items {done}; the pairs are in {path}")
    else:
        progress.note(f"no row holds an item of {', '.join(map(str, request.tests.paths))}")
    if request.limits.leaks == "remove":
        eligible.keep(~leaked, "--against")


def _limits(request: _Request, rows: Rows) -> Limits:
    labels = [str(label) for label in request.dataset.attrs["sources"]]
    source = request.dataset.take("source", rows).astype(np.int64)
    quota = {"labels": labels, "n": request.n}
    most = parse_quotas(request.limits.max_per_source, option="--max-per-source", **quota)  # type: ignore[arg-type]
    least = parse_quotas(request.limits.min_per_source, option="--min-per-source", **quota)  # type: ignore[arg-type]
    available = np.bincount(source, minlength=len(labels))
    least = {code: number for code, number in least.items() if number}
    check_quotas(most, least, labels=labels, available=available, n=request.n)
    if request.n is not None and len(request.first) > request.n:
        raise UsageError(f"--must-include has {len(request.first)} rows, -n is {request.n}.", "Raise -n.")
    tokens = None
    if request.limits.token_budget is not None:
        tokens = token_counts(request.stored, request.data)[rows]
        tokens[tokens == 0] = np.iinfo(np.int64).max  # of unknown length: never fits a budget
    return Limits(
        source=source,
        n=request.n,
        auto=request.auto,
        most=most,
        least=least,
        tokens=tokens,
        token_budget=request.limits.token_budget,
        tau=request.limits.tau,
    )


def _refuse_too_few(request: _Request, chooser: Chooser, candidates: int) -> None:
    taken, n = len(chooser.taken), request.n
    budget = request.limits.token_budget is not None
    if not taken or (n is not None and taken < n and not (budget and chooser.closed_by["--token-budget"])):
        by = ", ".join(f"{option} closed {count}" for option, count in chooser.closed_by.items() if count)
        raise UsageError(
            f"Only {taken} of {n or 'any'} rows could be chosen from {candidates}: {by or 'none gains anything'}.",
            "Loosen that constraint, or give a smaller -n.",
        )


def _write(request: _Request, path: str, rows: Rows, gains: NDArray[np.float64]) -> store.Artefact:
    arrays = {"row": store.ArraySpec("int64"), "score": store.ArraySpec("float32")}
    values = {"row": rows, "score": request.scores.read("score")[rows]}
    if request.method != "top":
        arrays["gain"] = store.ArraySpec("float32")
        values["gain"] = gains.astype(np.float32)
    parents = {request.scores.name: request.scores.fingerprint} | (request.sides.parents if request.sides else {})
    artefact = request.stored.create(
        path,
        kind=store.Kind.SELECTION,
        spec=request.spec(),
        parents=parents,
        n=len(rows),
        part_rows=DATASET_PART_ROWS,
        arrays=arrays,
        attrs={"data": request.data},
    )
    write_rows(artefact, values)
    return artefact


def _digest(rows: Rows) -> str | None:
    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:32] if len(rows) else None


def _mix(dataset: store.Artefact, selection: store.Artefact) -> dict[str, int]:
    """Rows by source label, most first; labels are the data set's own, "" when it has none."""
    labels = dataset.attrs["sources"]
    codes, counts = np.unique(dataset.take("source", selection.read("row")), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {str(labels[codes[i]]): int(counts[i]) for i in order}
