"""Which rows a selection takes: filters first, then a selector under the limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkcli.choices import Leaks
from ntkcli.errors import UsageError
from ntkcli.progress import Progress
from ntkcli.selection.chooser import Chooser, Limits
from ntkcli.selection.quotas import check_budget, check_quotas, parse_quotas
from ntkcli.selection.top import top
from ntkcli.steps.selections.filters import Eligible, keep_first_of_repeats, keep_lengths
from ntkcli.steps.selections.leaks import find_leaks, write_report
from ntkcli.steps.selections.request import Request, Rows
from ntkcli.steps.selections.selectors import ComparedRows, choose, refuse_without_memory, rows_with_features
from ntkcli.steps.shared.lengths import lengths

LEAST_LOOK = 4096
"""Rows that are looked at first where each has to be read, at least: a pass over the pool's file costs more."""
MORE = 4
"""Times as many rows are looked at when too few of them pass."""


def choose_rows(request: Request, name: str, progress: Progress) -> tuple[Rows, NDArray[np.float64], dict[str, int]]:
    """The chosen rows in order, their gains, and how many of the rows looked at each constraint took out.

    Where texts or features of each row have to be read (--against, --dedup) and the best rows are wanted, these are
    looked at in rank order until enough pass; the rows chosen are the same as if all were looked at.
    """
    score, similarity = request.scores.read("score"), request.scores.read("similarity")
    scored = np.flatnonzero(~np.isnan(score))
    cheap = _eligible_by_numbers(request, scored, progress)
    ranked = _among(top(score, similarity, len(scored)), cheap.rows, n=len(score))
    _refuse_too_large(request, len(ranked))
    compared = None
    for looked in _looks(request, ranked):
        whole = len(looked) == len(ranked)
        eligible, leaked = _eligible(request, cheap, looked, progress)
        if not whole and len(eligible.rows) < _wanted(request):
            continue
        _refuse_too_many(request, eligible, scored=len(scored))
        try:
            limits = _limits(request, eligible.rows, progress)
        except UsageError:
            if whole:
                raise
            continue
        progress.note(f"selecting from {len(eligible.rows)} rows by {request.method}")
        if request.features is not None:
            compared = compared or ComparedRows(
                request.features, n=request.dataset.n, rows=cheap.rows, mean_over=scored
            )
            compared = compared.of(eligible.rows)
        chooser = choose(
            request.method,
            limits,
            score=score[eligible.rows],
            similarity=similarity[eligible.rows],
            first=np.searchsorted(eligible.rows, request.first).tolist(),
            compared=compared,
            exponent=request.exponent,
            progress=progress,
        )
        if whole or len(chooser.taken) == request.n:
            break
    if not whole:
        progress.note(f"the best {len(looked)} of {len(ranked)} rows were enough to look at")
    if leaked is not None:
        _note_leaks(request, name, leaked, progress)
    _refuse_too_few(request, chooser, len(eligible.rows))
    removed = eligible.removed | {option: count for option, count in chooser.closed_by.items() if option == "--dedup"}
    return eligible.rows[chooser.taken], np.array(chooser.gains), removed


def _looks(request: Request, ranked: Rows) -> Iterator[Rows]:
    """The rows to look at, best first: all; or where each is read and the best are wanted some, then more."""
    limits, tested = request.limits, bool(request.tests.paths)
    each_is_read = limits.dedup is not None or (tested and limits.leaks == Leaks.REMOVE)
    reported = tested and limits.leaks == Leaks.REPORT
    if each_is_read and not reported and (wanted := _wanted(request)):
        size = max(LEAST_LOOK, int(MORE * wanted))
        while size < len(ranked):
            yield ranked[:size]
            size = int(size * MORE) + 1
    yield ranked


def _wanted(request: Request) -> int:
    """How many rows that pass are enough: candidates, or rows of `top` that takes the best; 0: all count."""
    limits = request.limits
    if limits.candidates is not None:
        return limits.candidates
    takes_the_best = request.method == "top" and not limits.min_per_source and limits.token_budget is None
    return request.n or 0 if takes_the_best else 0


def _among(order: Rows, rows: Rows, *, n: int) -> Rows:
    """Those of `order` that are in `rows`, of the pool's `n` rows."""
    there = np.zeros(n, dtype=np.bool_)
    there[rows] = True
    return order[there[order]]


def _refuse_too_large(request: Request, rows: int) -> None:
    """UsageError before any work if the candidates need more memory than there is for them."""
    if request.features is None:
        return
    tau_of_all = request.limits.tau is not None and not (request.method == "top" and _wanted(request))
    candidates = min(rows, request.limits.candidates or rows)
    refuse_without_memory(
        request.method, request.features, candidates, unit=tau_of_all, named=request.limits.candidates is not None
    )


def _refuse_too_many(request: Request, eligible: Eligible, *, scored: int) -> None:
    """UsageError if fewer rows are left than are to be chosen, or none."""
    if request.n is not None and request.n > len(eligible.rows):
        took = eligible.binding()
        left = f", of which constraints leave {len(eligible.rows)} ({took})" if took else ""
        raise UsageError(
            f"-n {request.n}: {request.scores.name} has {scored} scored rows of {request.scores.n}{left}.",
            f"Give -n from 1 to {len(eligible.rows)}" + (", or loosen them." if took else "."),
        )
    if not len(eligible.rows):
        raise UsageError(f"Nothing is left to select: {eligible.binding() or 'no row is scored'}.", "Loosen it.")


def _eligible_by_numbers(request: Request, scored: Rows, progress: Progress) -> Eligible:
    """The scored rows that pass the filters for which no text is read, but to count tokens."""
    limits, stored = request.limits, request.stored
    eligible = Eligible(scored)
    eligible.keep(~np.isin(eligible.rows, request.excluded), "--exclude")
    if request.allowed is not None:
        eligible.keep(np.isin(eligible.rows, request.allowed), "--only")
    if request.features is not None:
        have = rows_with_features(request.features, n=request.dataset.n)
        eligible.keep(np.isin(eligible.rows, have), "rows without features")
    if request.encoding is not None and (limits.min_tokens is not None or limits.max_tokens is not None):
        tokens = lengths(stored, request.data, request.encoding, eligible.rows, progress=progress)
        keep_lengths(eligible, tokens, min_tokens=limits.min_tokens, max_tokens=limits.max_tokens)
    _refuse_lost(request, eligible)
    return eligible


def _eligible(
    request: Request, cheap: Eligible, looked: Rows, progress: Progress
) -> tuple[Eligible, list[dict[str, Any]] | None]:
    """Of the rows `looked` at (best first) those that pass every filter, and the leaks in them, None if not sought.

    Rows that must be in have to pass them too.
    """
    limits, stored = request.limits, request.stored
    eligible = Eligible(np.union1d(looked, request.first), dict(cheap.removed))
    pairs = None
    if request.tests.paths:
        leaked, pairs = find_leaks(stored, request.data, eligible.rows, request.tests, progress)
        if limits.leaks == Leaks.REMOVE:
            eligible.keep(~leaked, "--against")
    if limits.dedup in ("exact", "minhash"):
        near = limits.dedup == "minhash"
        keep_first_of_repeats(
            eligible, stored, request.data, near=near, order=looked, first=request.first, progress=progress
        )
    _refuse_lost(request, eligible)
    if limits.candidates is not None:
        best = _among(looked, eligible.rows, n=request.scores.n)[: limits.candidates]
        eligible.keep(np.isin(eligible.rows, best) | np.isin(eligible.rows, request.first), "--candidates")
    return eligible, pairs


def _refuse_lost(request: Request, eligible: Eligible) -> None:
    """UsageError if a row that must be in is out."""
    if len(lost := np.setdiff1d(request.first, eligible.rows)):
        row_id = request.dataset.take("row_id", lost[:1])[0]
        raise UsageError(
            f"--must-include has {len(lost)} rows that can't be chosen, such as {row_id!r}: they have no score, or "
            f"{eligible.binding() or 'no features'}.",
            "Take them out of the file, or loosen the constraint.",
        )


def _note_leaks(request: Request, name: str, pairs: list[dict[str, Any]], progress: Progress) -> None:
    """Report the pairs of pool rows and test items."""
    if pairs:
        path = write_report(request.stored, name, pairs)
        done = "left out" if request.limits.leaks == Leaks.REMOVE else "found, not left out"
        progress.note(f"{len(pairs)} rows that hold test items {done}; the pairs are in {path}")
    else:
        progress.note(f"no row holds an item of {', '.join(map(str, request.tests.paths))}")


def _limits(request: Request, rows: Rows, progress: Progress) -> Limits:
    labels = [str(label) for label in request.dataset.attrs["sources"]]
    source = request.dataset.take("source", rows).astype(np.int64)
    most = parse_quotas(request.limits.max_per_source, option="--max-per-source", labels=labels, n=request.n)
    least = parse_quotas(request.limits.min_per_source, option="--min-per-source", labels=labels, n=request.n)
    available = np.bincount(source, minlength=len(labels))
    least = {code: number for code, number in least.items() if number}
    check_quotas(most, least, labels=labels, available=available, n=request.n)
    if request.n is not None and len(request.first) > request.n:
        raise UsageError(f"--must-include has {len(request.first)} rows, -n is {request.n}.", "Raise -n.")
    tokens = None
    if request.encoding is not None and request.limits.token_budget is not None:
        tokens = lengths(request.stored, request.data, request.encoding, rows, progress=progress)[rows]
        tokens[tokens == 0] = np.iinfo(np.int64).max  # can't be encoded: never fits a budget
        check_budget(least, labels=labels, source=source, tokens=tokens, budget=request.limits.token_budget)
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


def _refuse_too_few(request: Request, chooser: Chooser, candidates: int) -> None:
    taken, n, owed = len(chooser.taken), request.n, chooser.owed()
    by_budget = request.limits.token_budget is not None and chooser.closed_by["--token-budget"] > 0
    if taken and not owed and (n is None or taken == n or by_budget):
        return
    by = ", ".join(f"{option} closed {count}" for option, count in chooser.closed_by.items() if count)
    labels = request.dataset.attrs["sources"]
    lack = "".join(f"; {rows} of {labels[code]!r} are missing" for code, rows in owed.items())
    raise UsageError(
        f"Only {taken} of {n or 'any'} rows could be chosen from {candidates}: {by or 'none gains anything'}{lack}.",
        "Loosen that constraint, or give a smaller -n.",
    )
