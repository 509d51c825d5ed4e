"""Which rows a selection takes: filters first, then a selector under the limits."""

from __future__ import annotations

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
from ntkcli.steps.selections.selectors import ComparedRows, choose, rows_with_features
from ntkcli.steps.shared.lengths import lengths


def choose_rows(request: Request, name: str, progress: Progress) -> tuple[Rows, NDArray[np.float64], dict[str, int]]:
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
    limits = _limits(request, eligible.rows, progress)
    progress.note(f"selecting from {len(eligible.rows)} rows by {request.method}")
    compared = None
    if request.features is not None:
        compared = ComparedRows(request.features, n=request.dataset.n, rows=eligible.rows, mean_over=scored)
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
    _refuse_too_few(request, chooser, len(eligible.rows))
    removed = eligible.removed | {option: count for option, count in chooser.closed_by.items() if option == "--dedup"}
    return eligible.rows[chooser.taken], np.array(chooser.gains), removed


def _eligible(request: Request, scored: Rows, *, order: Rows, name: str, progress: Progress) -> Eligible:
    """The scored rows that pass every filter; rows that must be in have to pass them too."""
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
    if request.tests.paths:
        _drop_leaks(request, eligible, name, progress)
    if limits.dedup in ("exact", "minhash"):
        near = limits.dedup == "minhash"
        keep_first_of_repeats(
            eligible, stored, request.data, near=near, order=order, first=request.first, progress=progress
        )
    if len(lost := np.setdiff1d(request.first, eligible.rows)):
        row_id = request.dataset.take("row_id", lost[:1])[0]
        raise UsageError(
            f"--must-include has {len(lost)} rows that can't be chosen, such as {row_id!r}: they have no score, or "
            f"{eligible.binding() or 'no features'}.",
            "Take them out of the file, or loosen the constraint.",
        )
    return eligible


def _drop_leaks(request: Request, eligible: Eligible, name: str, progress: Progress) -> None:
    """Report the pairs of pool rows and test items and, unless only that was asked for, leave the rows out."""
    leaked, pairs = find_leaks(request.stored, request.data, eligible.rows, request.tests, progress)
    if pairs:
        path = write_report(request.stored, name, pairs)
        done = "left out" if request.limits.leaks == Leaks.REMOVE else "found, not left out"
        progress.note(f"{len(pairs)} rows that hold test items {done}; the pairs are in {path}")
    else:
        progress.note(f"no row holds an item of {', '.join(map(str, request.tests.paths))}")
    if request.limits.leaks == Leaks.REMOVE:
        eligible.keep(~leaked, "--against")


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
