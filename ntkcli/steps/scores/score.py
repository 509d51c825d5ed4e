"""Score every pool row by its features or words against the domain's, streaming over the pool."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import Across, OnError
from ntkcli.data.references import split_name
from ntkcli.doors import refuse_missing
from ntkcli.errors import UsageError
from ntkcli.progress import Progress, Silent
from ntkcli.scoring.features import Rows, Wide
from ntkcli.scoring.groups import across_groups
from ntkcli.steps.scores import exact
from ntkcli.steps.scores.losses import weigh_by_residual
from ntkcli.steps.scores.methods import plan_by_features, plan_by_model, plan_by_texts
from ntkcli.steps.scores.options import DEFAULTS, ScoreOptions, check_options
from ntkcli.steps.scores.registry import SCORES
from ntkcli.steps.scores.sorts import (
    FeatureScore,
    ModelScore,
    PlannedScore,
    Request,
    Score,
    ScorePlan,
    TextScore,
    options_of,
)
from ntkcli.steps.shared.datasets import data_file, data_name, moved_data
from ntkcli.steps.shared.disk_room import refuse_without_room
from ntkcli.steps.shared.environment import begin, environment
from ntkcli.steps.shared.non_finite import settle_non_finite
from ntkcli.steps.shared.row_sets import rows_in_order, selected_rows
from ntkcli.steps.shared.shards import ALONE, Shard
from ntkcli.steps.shared.stores import DATASET_PART_ROWS, open_store, write_rows

VERSION = 2
"""Of the scores, in every spec: goes up when the same features would give other scores."""
SUBSPACE = 0.9
"""The share of the domain's energy that gist keeps by default."""
FIX = "Score by --method cosine, which leaves lengths out, or give --on-error skip to leave these rows out."


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """The artefact, how many of the pool's `rows` are `scored`, and the scores' range.

    `skipped` are the bad rows of files that the call gave as NAME=FILE.
    """

    artefact: str
    method: str
    rows: int
    scored: int
    low: float
    high: float
    digest: str
    skipped: int = 0


def scores(
    store_path: str | Path, *, pool: str, methods: Mapping[str, str], options: ScoreOptions = DEFAULTS,
    on_error: OnError = OnError.FAIL, data: Sequence[str] = (), shard: Shard = ALONE, progress: Progress | None = None,
) -> list[ScoreResult]:  # fmt: skip
    """Write `scores/<name>`, one for each of `methods` (name -> method): one float32 a row of the data set `pool`.

    A row without a score has NaN. `pool` and the domains are data sets of the store, or NAME=FILE, which names a file's
    rows there first (bad ones as `on_error` says). Methods that compare features read the pool's once together, others
    are computed one after the other; each score is what it would be alone. Each option applies to the methods that
    have it.
    Scores that are finished are left as they are. With on_error "skip" rows whose values are not finite get no score.
    `data` says where files of data sets are now (NAME=FILE), if they have moved. `shard` (i, n): one of n processes,
    which take the parts of scores that compute (exact) in turns.

    Raises:
        UsageError: an option does not apply to the methods.
        store.MissingArtefactError, store.IncompleteError: features are missing or not finished.
        SpecError: the sides' features were not made alike, or don't cover the rows.
        NtkselError: rows' values are not finite, with on_error "fail"; names them.
    """
    progress = progress or Silent()
    check_options(list(methods.values()), options)
    names = [store.check_name(name, "--name") for name in methods]
    files = [name for name, _ in map(split_name, (pool, *options.domain)) if name is not None]
    stored = open_store(store_path, create=bool(files))
    moved_data(stored, data, default=[pool])
    pool = data_name(stored, pool, option="--pool", on_error=on_error)
    domains = [data_name(stored, each, option="--domain", on_error=on_error) for each in options.domain]
    dataset = stored.get(f"datasets/{pool}")
    parents = {dataset.name: dataset.fingerprint}
    spec: dict[str, Any] = {"version": VERSION, "data": dataset.spec["digest"], "rows": None}
    only: Rows | None = None
    if options.rows is not None:
        only, selection = selected_rows(stored, options.rows, dataset=dataset)
        parents[selection.name] = spec["rows"] = selection.fingerprint
    every = _whole_request(stored, dataset, only, domains, options, progress)
    requests = {name: _request_of(every, name, method) for name, method in methods.items()}
    plans = _plans(every, requests)
    created = _create_all(requests, plans, spec, parents, options)
    for name in names:
        if not created[name].complete:
            _compute(created[name], plans[name], requests[name], options, on_error=on_error, shard=shard)
    progress.stop()
    unusable = sum(_unusable(stored.get(f"datasets/{each}")) for each in files)
    return [
        replace(result_of(created[name], method), skipped=_left_out(created[name], plans[name]) + unusable)
        for name, method in methods.items()
    ]


def _whole_request(
    stored: store.Store, dataset: store.Artefact, only: Rows | None, domains: Sequence[str], options: ScoreOptions,
    progress: Progress,
) -> Request:  # fmt: skip
    """What was asked for of all scores: no method, and every option."""
    return Request(
        stored=stored, dataset=dataset, only=only, method="", domains=domains, group_by=options.group_by,
        features=options.feature, centre=options.centre, k=options.k,
        subspace=SUBSPACE if options.subspace is None else options.subspace, whiten=options.whiten,
        residual=options.residual, seed=options.seed, match_length=options.match_length, tokens_of=options.tokens_of,
        known=None, progress=progress,
    )  # fmt: skip


def _create_all(
    requests: Mapping[str, Request], plans: Mapping[str, ScorePlan], spec: dict[str, Any], parents: dict[str, str],
    options: ScoreOptions,
) -> dict[str, store.Artefact]:  # fmt: skip
    """The scores in the store by name, new or known. Plans of those that are finished are skipped."""
    artefacts = {}
    # Those that are there first: one that another spec has the name of is refused before anything is made.
    for name in sorted(requests, key=lambda each: requests[each].known is None):
        plan, request = plans[name], requests[name]
        if "groups" in plan.spec:
            plan.spec["groups"]["across"] = options.across
        by_model = isinstance(SCORES.get(request.method), ModelScore)
        if by_model:
            plan.spec |= exact.exact_spec(_pool_features(request), request.known, dtype=options.dtype)
        whole = spec | {"method": request.method} | SCORES.spec(request.method) | plan.spec
        artefact = create_score(request.stored, name, whole, parents | plan.parents, request.dataset, by_model=by_model)
        refuse_without_room(artefact, artefact.pending(), instead="")
        artefacts[name] = artefact
        if artefact.complete:
            request.progress.note(f"{artefact.name} is finished already")
            plan.skip()
    return artefacts


def _compute(
    artefact: store.Artefact, plan: ScorePlan, request: Request, options: ScoreOptions, *, on_error: OnError,
    shard: Shard,
) -> None:  # fmt: skip
    """Compute one score and write it."""
    entry, stored, dataset = SCORES.get(request.method), request.stored, request.dataset
    if isinstance(entry, ModelScore):
        with SCORES.blaming(request.method):
            exact.fill_exact(
                stored, artefact, entry, features=_pool_features(request), pool=dataset,
                domain=stored.get(f"datasets/{request.domains[0]}"), only=request.only, device=options.device,
                batch_tokens=options.batch_tokens, on_error=on_error, progress=request.progress, shard=shard,
                processes=options.processes,
            )  # fmt: skip
        return
    begin(artefact, environment(*entry.packages, *SCORES.packages(request.method)), request.progress)
    with SCORES.blaming(request.method):
        _fill(stored, artefact, dataset, plan, across=options.across, on_error=on_error, progress=request.progress)


def _request_of(request: Request, name: str, method: str) -> Request:
    """What was asked for, for one score: with the options that its method has.

    Raises:
        UsageError: there is a score of this name, made with a plug-in that is not installed.
    """
    known = request.stored.find(f"scores/{name}")
    if known is not None:
        refuse_missing(known.spec, known.name)
    entry = SCORES.get(method)
    words = options_of(entry)
    return replace(
        request,
        method=method,
        known=known,
        features=request.features or [entry.feature],
        group_by=request.group_by if "group-by" in words else None,
        centre=request.centre and "centre" in words,
        k=request.k if "k" in words else None,
        subspace=request.subspace if "subspace" in words else SUBSPACE,
        whiten=request.whiten if "whiten" in words else None,
        residual=request.residual and "residual" in words,
        match_length=request.match_length if "match-length" in words else None,
        tokens_of=request.tokens_of if "match-length" in words else None,
    )


def _pool_features(request: Request) -> store.Artefact:
    """The pool's features, for a method that takes one feature."""
    pool = request.dataset.name.partition("/")[2]
    return request.stored.get(f"features/{pool}/{request.features[0]}")


def _plans(every: Request, requests: Mapping[str, Request]) -> dict[str, ScorePlan]:
    """What each score (by name) needs; those that can share a pass over the pool's features do.

    `every` has the options of all.
    """
    plans, comparing = {}, defaultdict[str, list[str]](list)
    for name, request in requests.items():
        entry = SCORES.get(request.method)
        if isinstance(entry, FeatureScore):
            comparing[request.features[0]].append(name)
        else:
            plans[name] = _plan(entry, request)
    for feature, names in comparing.items():
        methods = [requests[name].method for name in names]
        entries = {method: entry for method in methods if isinstance(entry := SCORES.get(method), FeatureScore)}
        plans |= dict(zip(names, plan_by_features(replace(every, features=[feature]), entries), strict=True))
    for name, request in requests.items():
        if request.residual:
            plans[name] = weigh_by_residual(request, plans[name])
    return plans


def _plan(entry: Score, request: Request) -> ScorePlan:
    """The plan of a method that compares no features, by the sort of score that it is."""
    if isinstance(entry, TextScore):
        return plan_by_texts(request, entry)
    if isinstance(entry, ModelScore):
        return plan_by_model(request)
    if isinstance(entry, PlannedScore):
        with SCORES.blaming(request.method):
            return entry.plan(request)
    raise UsageError(
        f"--method {request.method}: a {type(entry).__name__} is not one of the four sorts of scores.",
        "Report it to the author of its package.",
    )


def _fill(
    stored: store.Store,
    artefact: store.Artefact,
    dataset: store.Artefact,
    plan: ScorePlan,
    *,
    across: Across,
    on_error: OnError,
    progress: Progress,
) -> None:
    """Compute the scores and write them. NtkselError if rows have features and no finite score, unless left out."""
    progress.start(artefact.name, total=plan.total(), unit="rows")
    found, ties = plan.compute()
    scores = one_score(found, across=across)
    bad = np.flatnonzero(plan.measured() & ~np.isfinite(scores))
    if len(bad):
        rows = list(rows_in_order(data_file(stored, dataset), bad, dataset.read("status")))
        settle_non_finite("scores", rows, on_error=on_error, progress=progress, fix=FIX)
        scores[bad] = np.nan
    write_score(artefact, scores, ties)


def _left_out(artefact: store.Artefact, plan: ScorePlan) -> int:
    """How many rows have no score because a value is not finite."""
    if "status" in artefact.arrays:
        return exact.skipped_rows(artefact)
    return int((plan.measured() & np.isnan(artefact.read("score"))).sum())


def _unusable(dataset: store.Artefact) -> int:
    return int((dataset.read("status") >= store.RowStatus.UNREADABLE).sum())


def create_score(
    stored: store.Store,
    name: str,
    spec: dict[str, Any],
    parents: dict[str, str],
    dataset: store.Artefact,
    *,
    by_model: bool = False,
) -> store.Artefact:
    """The artefact `scores/<name>`, new or resumed; scores `by_model` have a status, and smaller parts."""
    arrays = {"score": store.ArraySpec("float32"), "similarity": store.ArraySpec("float32")}
    if by_model:
        arrays["status"] = store.ArraySpec("uint8", attrs=store.status_attrs())
    path = f"scores/{store.check_name(name, '--name')}"
    if (known := stored.find(path)) is not None and known.spec != spec:
        stored.refuse_shorter(known)
    return stored.create(
        path,
        kind=store.Kind.SCORE,
        spec=spec,
        parents=parents,
        n=dataset.n,
        part_rows=exact.PART_ROWS if by_model else DATASET_PART_ROWS,
        arrays=arrays,
        attrs={"data": dataset.name.partition("/")[2]},
    )


def one_score(found: Wide, *, across: Across) -> NDArray[np.float32]:
    """A score for each row, of the groups' (n, groups), as it is kept: what float32 can't hold is infinite."""
    if found.ndim == 2:
        found = found[:, 0] if found.shape[1] == 1 else across_groups(found, how=across)
    with np.errstate(over="ignore"):
        return found.astype(np.float32)


def write_score(artefact: store.Artefact, scores: NDArray[np.float32], ties: Wide | None) -> None:
    """Write scores (n,) and their ties."""
    ties = np.full(artefact.n, np.nan) if ties is None else ties
    write_rows(artefact, {"score": scores, "similarity": ties.astype(np.float32)})


def result_of(artefact: store.Artefact, method: str) -> ScoreResult:
    """What a finished score reports."""
    values = artefact.read("score")
    scored = values[~np.isnan(values)]
    low, high = (float(scored.min()), float(scored.max())) if len(scored) else (float("nan"), float("nan"))
    return ScoreResult(artefact.name, method, artefact.n, len(scored), low, high, artefact.digest())
