"""Score every pool row by its features or words against the domain's, streaming over the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import store
from ntkcli.data.files import OnError
from ntkcli.errors import SpecError, UsageError
from ntkcli.progress import Progress, Silent
from ntkcli.scoring.features import Rows, Wide
from ntkcli.scoring.groups import across_groups, combine_by_rank
from ntkcli.seeds import check_seed
from ntkcli.steps.scores import exact
from ntkcli.steps.scores.less import less_job
from ntkcli.steps.scores.methods import features_job, random_job, words_job
from ntkcli.steps.shared.datasets import data_name
from ntkcli.steps.shared.disk_room import refuse_without_room
from ntkcli.steps.shared.row_sets import selected_rows
from ntkcli.steps.shared.stores import DATASET_PART_ROWS, open_store, write_rows

VERSION = 1
"""Of the scores, in every spec: goes up when the same features would give other scores."""
BY_FEATURES = ("votes", "mean", "cosine", "max", "rds", "less")
BY_WORDS = ("bm25", "dsir")
METHODS = (*BY_FEATURES, "exact", *BY_WORDS, "random")


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


def score(
    store_path: str | Path,
    *,
    pool: str,
    name: str,
    method: str,
    domain: str | Sequence[str] | None = None,
    group_by: str | None = None,
    across: str = "max",
    feature: str | Sequence[str] | None = None,
    rows: str | None = None,
    centre: bool = False,
    k: int | None = None,
    seed: int = 0,
    match_length: str | None = None,
    on_error: OnError = "fail",
    progress: Progress | None = None,
) -> ScoreResult:
    """Write `scores/<name>`: one float32 a row of the data set `pool`, NaN where there is none.

    `pool` and `domain` are data sets of the store, or NAME=FILE, which names a file's rows there first (bad ones
    as `on_error` says). Methods:
    `ntkcli.scoring`, `less` (`ntkcli.steps.scores.less`) and `exact` (`ntkcli.engine.features.exact`). `feature` names the
    features on all sides (default ntk, for less loss; less takes several; words and random take none); `rows` keeps to
    a selection of the pool; `k` is for votes and rds (default 0.5% of the pool, at least 10), `seed` for dsir and
    random. Several domains, or `group_by="source"`, make groups: a score each, joined by `across` (max, mean).
    `match_length` names a data set or a selection whose lengths in tokens random rows shall have.

    Raises:
        store.MissingArtefactError, store.IncompleteError: features are missing or not finished.
        SpecError: the sides' features were not made alike, or don't cover the rows.
    """
    progress = progress or Silent()
    domains = [domain] if isinstance(domain, str) else list(domain or ())
    default = "loss" if method == "less" else "ntk"
    features = [feature] if isinstance(feature, str) else list(feature or [default])
    _check_options(
        method,
        centre=centre,
        k=k,
        match_length=match_length,
        across=across,
        group_by=group_by,
        domains=len(domains),
        features=len(features),
    )
    check_seed("--seed", seed)
    files = [name for name, equals, _ in (each.partition("=") for each in (pool, *domains)) if equals]
    stored = open_store(store_path, create=bool(files))
    pool = data_name(stored, pool, option="--pool", on_error=on_error)
    domains = [data_name(stored, each, option="--domain", on_error=on_error) for each in domains]
    dataset = stored.get(f"datasets/{pool}")
    parents = {dataset.name: dataset.fingerprint}
    spec: dict[str, Any] = {"version": VERSION, "method": method, "data": dataset.spec["digest"], "rows": None}
    only: Rows | None = None
    if rows is not None:
        only, selection = selected_rows(stored, rows, dataset=dataset)
        parents[selection.name] = spec["rows"] = selection.fingerprint
    if method == "random":
        job = random_job(stored, dataset, only, seed=seed, match_length=match_length)
    elif method == "less":
        job = less_job(
            stored,
            dataset,
            only,
            domains=domains,
            group_by=group_by,
            features=features,
            centre=centre,
            progress=progress,
        )
    elif method in BY_WORDS:
        job = words_job(stored, dataset, only, method=method, domains=domains, group_by=group_by, seed=seed)
    else:
        job = features_job(
            stored,
            dataset,
            only,
            method=method,
            domains=domains,
            group_by=group_by,
            feature=features[0],
            centre=centre,
            k=k,
            on_block=progress.advance,
        )
    if "groups" in job.spec:
        job.spec["groups"]["across"] = across
    part_rows = exact.PART_ROWS if method == "exact" else DATASET_PART_ROWS
    artefact = _create(stored, name, spec | job.spec, parents | job.parents, dataset, part_rows=part_rows)
    refuse_without_room(artefact, artefact.pending(), instead="")
    if artefact.complete:
        progress.note(f"{artefact.name} is finished already")
    elif method == "exact":
        exact.fill_exact(
            stored,
            artefact,
            features=stored.get(f"features/{pool}/{features[0]}"),
            pool=dataset,
            domain=stored.get(f"datasets/{domains[0]}"),
            only=only,
            progress=progress,
        )
    else:
        progress.start(artefact.name, total=job.total, unit="rows")
        _write(artefact, *job.compute(), across=across)
    progress.stop()
    status = (stored.get(f"datasets/{each}").read("status") for each in files)
    skipped = sum(int((each >= store.RowStatus.UNREADABLE).sum()) for each in status)
    return replace(_result(artefact, method), skipped=skipped)


def combine(
    store_path: str | Path, *, scores: Sequence[str], name: str, progress: Progress | None = None
) -> ScoreResult:
    """Write `scores/<name>`: the mean rank share of two or more scores of one pool, 1 for the best row.

    Raises:
        UsageError: fewer than two scores. SpecError: they are of different data sets.
    """
    progress = progress or Silent()
    stored = open_store(store_path)
    found = scores_of_one_pool(stored, scores, option="--combine")
    dataset = stored.get(f"datasets/{found[0].attrs['data']}")
    spec = {
        "version": VERSION,
        "method": "combine",
        "data": dataset.spec["digest"],
        "rows": None,
        "scores": sorted(artefact.fingerprint for artefact in found),
    }
    parents = {artefact.name: artefact.fingerprint for artefact in (dataset, *found)}
    artefact = _create(stored, name, spec, parents, dataset)
    if artefact.complete:
        progress.note(f"{artefact.name} is finished already")
    else:
        values = [each.read("score").astype(np.float64) for each in found]
        _write(artefact, combine_by_rank(values), None, across="max")
    return _result(artefact, "combine")


def scores_of_one_pool(stored: store.Store, names: Sequence[str], *, option: str) -> list[store.Artefact]:
    """Two or more scores, current and of the same rows. UsageError or SpecError if they are not."""
    if len(set(names)) < 2:
        raise UsageError(f"{option} needs two different scores.", f"Give {option} SCORE twice.")
    found = [stored.get(f"scores/{store.check_name(name, option)}") for name in names]
    for artefact in found:
        stored.check_parents(artefact)
        if artefact.spec["data"] != found[0].spec["data"]:
            raise SpecError(
                f"{artefact.name} scores the data set {artefact.attrs['data']!r}, "
                f"{found[0].name} {found[0].attrs['data']!r}.",
                "Give scores of the same pool.",
            )
    return found


def _check_options(
    method: str,
    *,
    centre: bool,
    k: int | None,
    match_length: str | None,
    across: str,
    group_by: str | None,
    domains: int,
    features: int,
) -> None:
    if method not in METHODS:
        raise UsageError(f"--method {method} is not known.", f"Give one of: {', '.join(METHODS)}.")
    if across not in ("max", "mean"):
        raise UsageError(f"--across {across} is not known.", "Give max or mean.")
    for option, given, methods in (
        ("--centre", centre, BY_FEATURES),
        ("--group-by", group_by is not None, (*BY_FEATURES, *BY_WORDS)),
        ("a second --domain", domains > 1, (*BY_FEATURES, *BY_WORDS)),
        ("a second --feature", features > 1, ("less",)),
        ("-k", k is not None, ("votes", "rds")),
        ("--match-length", match_length is not None, ("random",)),
    ):
        if given and method not in methods:
            raise UsageError(f"{option} means nothing to --method {method}.", f"It is for {', '.join(methods)}.")


def _create(
    stored: store.Store,
    name: str,
    spec: dict[str, Any],
    parents: dict[str, str],
    dataset: store.Artefact,
    *,
    part_rows: int = DATASET_PART_ROWS,
) -> store.Artefact:
    return stored.create(
        f"scores/{store.check_name(name, '--name')}",
        kind=store.Kind.SCORE,
        spec=spec,
        parents=parents,
        n=dataset.n,
        part_rows=part_rows,
        arrays={"score": store.ArraySpec("float32"), "similarity": store.ArraySpec("float32")},
        attrs={"data": dataset.name.partition("/")[2]},
    )


def _write(artefact: store.Artefact, found: Wide, ties: Wide | None, *, across: str) -> None:
    if found.ndim == 2:
        found = found[:, 0] if found.shape[1] == 1 else across_groups(found, how=across)
    ties = np.full(artefact.n, np.nan) if ties is None else ties
    write_rows(artefact, {"score": found.astype(np.float32), "similarity": ties.astype(np.float32)})


def _result(artefact: store.Artefact, method: str) -> ScoreResult:
    values = artefact.read("score")
    scored = values[~np.isnan(values)]
    low, high = (float(scored.min()), float(scored.max())) if len(scored) else (float("nan"), float("nan"))
    return ScoreResult(artefact.name, method, artefact.n, len(scored), low, high, artefact.digest())
