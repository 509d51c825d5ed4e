"""Score every pool row by its features or words against the domain's, streaming over the pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import store
from ntkcli.errors import DataError, SpecError, UsageError
from ntkcli.progress import Progress, Silent
from ntkcli.scoring.features import FeatureReader, Rows, Wide
from ntkcli.scoring.groups import across_groups, combine_by_rank
from ntkcli.scoring.nearest import rds_scores
from ntkcli.scoring.random import random_scores
from ntkcli.scoring.similarity import cosine_scores, max_scores, mean_scores
from ntkcli.scoring.text import bm25_scores, dsir_scores, match_length_scores
from ntkcli.scoring.votes import vote_scores
from ntkcli.steps import exact
from ntkcli.steps.feature_arrays import refuse_without_room
from ntkcli.steps.inputs import DATASET_PART_ROWS, open_store, selected_rows, write_rows
from ntkcli.steps.score_inputs import domain_groups, features_of, group_readers, texts_of, token_counts

VERSION = 1
"""Of the scores, in every spec: goes up when the same features would give other scores."""
BY_FEATURES = ("votes", "mean", "cosine", "max", "rds")
BY_WORDS = ("bm25", "dsir")
METHODS = (*BY_FEATURES, "exact", *BY_WORDS, "random")
VOTE_SHARE = 0.005
"""Of the pool, what each domain row votes for by default: the paper's 9,000 of 1.8 million."""
MIN_VOTES = 10
Found = tuple[Wide, Wide | None]
"""Scores (n,) or, before groups are joined, (n, groups); and what breaks ties (n,), if anything."""


@dataclass(frozen=True, slots=True)
class ScoreResult:
    """The artefact, how many of the pool's `rows` are `scored`, and the scores' range."""

    artefact: str
    method: str
    rows: int
    scored: int
    low: float
    high: float
    digest: str


@dataclass(slots=True)
class _Job:
    """What a method needs: its part of the spec, its parents, the work and how many rows it reads."""

    spec: dict[str, Any]
    parents: dict[str, str]
    compute: Callable[[], Found]
    total: int = 0


def score(
    store_path: str | Path,
    *,
    pool: str,
    name: str,
    method: str,
    domain: str | Sequence[str] | None = None,
    group_by: str | None = None,
    across: str = "max",
    feature: str | None = None,
    rows: str | None = None,
    centre: bool = False,
    k: int | None = None,
    seed: int = 0,
    match_length: str | None = None,
    progress: Progress | None = None,
) -> ScoreResult:
    """Write `scores/<name>`: one float32 a row of the data set `pool`, NaN where there is none.

    Methods: `ntkcli.scoring`, and `exact` (`ntkcli.engine.exact`). `feature` names the features on all sides (default
    ntk; words and random take none);
    `rows` keeps to a selection of the pool; `k` is for votes and rds (default 0.5% of the pool, at least 10),
    `seed` for dsir and random. Several domains, or `group_by="source"`, make groups: a score each, joined by
    `across` (max, mean).
    `match_length` names a data set or a selection whose lengths in tokens random rows shall have.

    Raises:
        store.MissingArtefactError, store.IncompleteError: features are missing or not finished.
        SpecError: the sides' features were not made alike, or don't cover the rows.
    """
    progress = progress or Silent()
    domains = [domain] if isinstance(domain, str) else list(domain or ())
    _check_options(
        method,
        centre=centre,
        k=k,
        match_length=match_length,
        across=across,
        group_by=group_by,
        domains=len(domains),
    )
    stored = open_store(store_path)
    dataset = stored.get(f"datasets/{store.check_name(pool, '--pool')}")
    parents = {dataset.name: dataset.fingerprint}
    spec: dict[str, Any] = {"version": VERSION, "method": method, "data": dataset.spec["digest"], "rows": None}
    only: Rows | None = None
    if rows is not None:
        only, selection = selected_rows(stored, rows, dataset=dataset)
        parents[selection.name] = spec["rows"] = selection.fingerprint
    if method == "random":
        job = _random_job(stored, dataset, only, seed=seed, match_length=match_length)
    elif method in BY_WORDS:
        job = _words_job(stored, dataset, only, method=method, domains=domains, group_by=group_by, seed=seed)
    else:
        job = _features_job(
            stored,
            dataset,
            only,
            method=method,
            domains=domains,
            group_by=group_by,
            feature=feature or "ntk",
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
            features=stored.get(f"features/{pool}/{feature or 'ntk'}"),
            pool=dataset,
            domain=stored.get(f"datasets/{domains[0]}"),
            only=only,
            progress=progress,
        )
    else:
        progress.start(artefact.name, total=job.total, unit="rows")
        _write(artefact, *job.compute(), across=across)
    progress.stop()
    return _result(artefact, method)


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
) -> None:
    if method not in METHODS:
        raise UsageError(f"--method {method} is not known.", f"Give one of: {', '.join(METHODS)}.")
    if across not in ("max", "mean"):
        raise UsageError(f"--across {across} is not known.", "Give max or mean.")
    for option, given, methods in (
        ("--centre", centre, BY_FEATURES),
        ("--group-by", group_by is not None, (*BY_FEATURES, *BY_WORDS)),
        ("a second --domain", domains > 1, (*BY_FEATURES, *BY_WORDS)),
        ("-k", k is not None, ("votes", "rds")),
        ("--match-length", match_length is not None, ("random",)),
    ):
        if given and method not in methods:
            raise UsageError(f"{option} means nothing to --method {method}.", f"It is for {', '.join(methods)}.")


def _features_job(
    stored: store.Store,
    dataset: store.Artefact,
    only: Rows | None,
    *,
    method: str,
    domains: Sequence[str],
    group_by: str | None,
    feature: str,
    centre: bool,
    k: int | None,
    on_block: Callable[[int], None],
) -> _Job:
    pool = dataset.name.partition("/")[2]
    side, sides = features_of(stored, pool=pool, domains=domains, feature=feature)
    groups = domain_groups(stored, domains, group_by=group_by)
    reader = FeatureReader(side, n=dataset.n, only=only, on_block=on_block)
    if only is not None and len(reader.covered) < len(only):
        raise SpecError(
            f"{side.name} has {len(reader.covered)} of the {len(only)} rows of --rows.",
            f"Run `ntksel featurize ... --name {pool} --rows SELECTION` under another --feature.",
        )
    fingerprints = [sides[domain].fingerprint for domain in domains]
    spec: dict[str, Any] = {"pool": side.fingerprint, "domain": fingerprints[0], "centre": centre}
    if len(domains) > 1 or group_by:
        spec |= {"domain": fingerprints, "groups": {"by": group_by or "domain"}}
    if method in ("votes", "rds"):
        covered = len(reader.covered)
        spec["k"] = k = min(k or max(MIN_VOTES, round(VOTE_SHARE * covered)), covered)
    parents = {artefact.name: artefact.fingerprint for artefact in (side, *sides.values())}

    def compute() -> Found:
        return _by_features(method, reader, group_readers(stored, sides, groups), centre=centre, k=k or 0)

    passes = (1 if method in ("mean", "cosine") else len(groups)) * (1 + centre)
    return _Job(spec, parents, compute, total=side.n * passes)


def _by_features(method: str, pool: FeatureReader, groups: Sequence[FeatureReader], *, centre: bool, k: int) -> Found:
    if method in ("mean", "cosine"):
        return (mean_scores if method == "mean" else cosine_scores)(pool, groups, centre=centre), None
    if method == "max":
        return np.stack([max_scores(pool, group, centre=centre) for group in groups], axis=1), None
    by_lists = vote_scores if method == "votes" else rds_scores
    found = [by_lists(pool, group, k=k, centre=centre) for group in groups]
    ties = np.stack([tie for _, tie in found], axis=1)
    return np.stack([scores for scores, _ in found], axis=1), ties.max(axis=1)


def _words_job(
    stored: store.Store,
    dataset: store.Artefact,
    only: Rows | None,
    *,
    method: str,
    domains: Sequence[str],
    group_by: str | None,
    seed: int,
) -> _Job:
    groups = domain_groups(stored, domains, group_by=group_by)
    sets = [stored.get(f"datasets/{domain}") for domain in domains]
    spec: dict[str, Any] = {"domain": [each.spec["digest"] for each in sets]}
    if len(domains) > 1 or group_by:
        spec["groups"] = {"by": group_by or "domain"}
    if method == "dsir":
        spec["seed"] = seed

    def compute() -> Found:
        texts = [[text for _, text in texts_of(stored, group.domain, group.rows)()] for group in groups]
        pool = texts_of(stored, dataset.name.partition("/")[2], only)
        if method == "bm25":
            return bm25_scores(pool, texts, n=dataset.n), None
        return dsir_scores(pool, texts, dataset.read("row_id").tolist(), seed=seed), None

    return _Job(spec, {each.name: each.fingerprint for each in sets}, compute)


def _random_job(
    stored: store.Store, dataset: store.Artefact, only: Rows | None, *, seed: int, match_length: str | None
) -> _Job:
    wanted = np.arange(dataset.n) if only is None else only
    wanted = wanted[dataset.read("status")[wanted] < store.RowStatus.UNREADABLE]
    ids = dataset.read("row_id").tolist()
    if match_length is None:

        def draw() -> Found:
            found = np.full(dataset.n, np.nan)
            found[wanted] = random_scores([ids[row] for row in wanted], seed=seed)
            return found, None

        return _Job({"seed": seed}, {}, draw)
    target, parent = _target_lengths(stored, match_length)
    tokens = token_counts(stored, dataset.name.partition("/")[2])
    wanted = wanted[tokens[wanted] > 0]
    if not len(wanted):
        raise DataError("No pool row has a known length in tokens.", "Featurize the pool first.")
    spec = {"seed": seed, "match_length": parent.fingerprint}
    return _Job(
        spec,
        {parent.name: parent.fingerprint},
        lambda: (match_length_scores(tokens, target, ids, wanted, seed=seed), None),
    )


def _target_lengths(stored: store.Store, reference: str) -> tuple[Rows, store.Artefact]:
    """The known lengths in tokens (m,) of a selection, else of a data set, and that artefact."""
    selection = stored.find(f"selections/{store.check_name(reference, '--match-length')}")
    artefact = selection or stored.get(f"datasets/{reference}")
    counts = token_counts(stored, str(artefact.attrs["data"]) if selection else reference)
    known = counts[artefact.read("row")] if selection else counts
    known = known[known > 0]
    if not len(known):
        raise DataError(f"--match-length {reference}: no row of it has a known length.", "Featurize it first.")
    return known, artefact


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
