"""Score every pool row by its features against the domain's, streaming over the pool."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import store
from ntkcli.errors import DataError, SpecError, UsageError
from ntkcli.progress import Progress, Silent
from ntkcli.scoring.features import FeatureReader, Rows, Wide
from ntkcli.scoring.random import random_scores
from ntkcli.scoring.similarity import cosine_scores, mean_scores
from ntkcli.scoring.votes import vote_scores
from ntkcli.steps import exact
from ntkcli.steps.inputs import DATASET_PART_ROWS, open_store, selected_rows, write_rows

VERSION = 1
"""Of the scores, in every spec: goes up when the same features would give other scores."""
METHODS = ("votes", "mean", "cosine", "exact", "random")
VOTE_SHARE = 0.005
"""Of the pool, what each domain row votes for by default: the paper's 9,000 of 1.8 million."""
MIN_VOTES = 10
_MAY_DIFFER = frozenset({"data", "rows", "store_dtype"})
"""Fields of a features spec in which pool and domain may differ and still compare."""


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


def score(
    store_path: str | Path,
    *,
    pool: str,
    name: str,
    method: str,
    domain: str | None = None,
    feature: str | None = None,
    rows: str | None = None,
    centre: bool = False,
    k: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ScoreResult:
    """Write `scores/<name>`: one float32 a row of the data set `pool`, NaN where there is none.

    Methods: `ntkcli.scoring`, and `exact` (`ntkcli.engine.exact`). `feature` names the features on both sides
    (default ntk; random takes none); `rows` keeps to a selection of the pool; `k` is for votes (default 0.5% of the
    pool, at least 10), `seed` for random.

    Raises:
        store.MissingArtefactError, store.IncompleteError: features are missing or not finished.
        SpecError: the two sides' features were not made alike, or don't cover the rows.
    """
    progress = progress or Silent()
    if method not in METHODS:
        raise UsageError(f"--method {method} is not known.", f"Give one of: {', '.join(METHODS)}.")
    stored = open_store(store_path)
    dataset = stored.get(f"datasets/{store.check_name(pool, '--pool')}")
    parents = {dataset.name: dataset.fingerprint}
    spec: dict[str, Any] = {
        "version": VERSION,
        "method": method,
        "data": dataset.spec["digest"],
        "rows": None,
    }
    only: Rows | None = None
    if rows is not None:
        only, selection = selected_rows(stored, rows, dataset=dataset)
        parents[selection.name] = spec["rows"] = selection.fingerprint
    compute: Callable[[], tuple[Wide, Wide | None]]
    if method == "random":
        spec["seed"] = seed
        compute = lambda: (_random(dataset, only, seed=seed), None)  # noqa: E731
    else:
        sides = _features(stored, pool=pool, domain=domain, feature=feature or "ntk")
        parents |= {side.name: side.fingerprint for side in sides}
        spec |= {"pool": sides[0].fingerprint, "domain": sides[1].fingerprint, "centre": centre}
        readers = (
            FeatureReader(sides[0], n=dataset.n, only=only, on_block=progress.advance),
            FeatureReader(sides[1], n=stored.get(f"datasets/{domain}").n),
        )
        if only is not None and len(readers[0].covered) < len(only):
            raise SpecError(
                f"{sides[0].name} has {len(readers[0].covered)} of the {len(only)} rows of --rows {rows}.",
                f"Run `ntksel featurize ... --name {pool} --rows {rows}` under another --feature.",
            )
        if method == "exact" and centre:
            raise UsageError("--centre: the exact score is the raw mean.", "Leave it out.")
        if method == "votes":
            covered = len(readers[0].covered)
            spec["k"] = k = min(k or max(MIN_VOTES, round(VOTE_SHARE * covered)), covered)
        compute = lambda: _by_features(method, *readers, centre=centre, k=k or 0)  # noqa: E731
        progress.start(f"scores/{name}", total=sides[0].n * (1 + centre), unit="rows")
    artefact = stored.create(
        f"scores/{store.check_name(name, '--name')}",
        kind=store.Kind.SCORE,
        spec=spec,
        parents=parents,
        n=dataset.n,
        part_rows=exact.PART_ROWS if method == "exact" else DATASET_PART_ROWS,
        arrays={"score": store.ArraySpec("float32"), "similarity": store.ArraySpec("float32")},
        attrs={"data": pool},
    )
    if artefact.complete:
        progress.note(f"{artefact.name} is finished already")
    elif method == "exact":
        exact.fill_exact(
            stored,
            artefact,
            features=sides[0],
            pool=dataset,
            domain=stored.get(f"datasets/{domain}"),
            only=only,
            progress=progress,
        )
    else:
        found, ties = compute()
        ties = np.full(dataset.n, np.nan) if ties is None else ties
        write_rows(artefact, {"score": found.astype(np.float32), "similarity": ties.astype(np.float32)})
    progress.stop()
    return _result(artefact, method)


def _by_features(
    method: str, pool: FeatureReader, domain: FeatureReader, *, centre: bool, k: int
) -> tuple[Wide, Wide | None]:
    if not any(len(block.rows) for block in domain.blocks()):
        raise DataError(f"{domain.artefact.name} has no row with features.", "Featurize a domain that has some.")
    if method == "votes":
        return vote_scores(pool, domain, k=k, centre=centre)
    by_similarity = mean_scores if method == "mean" else cosine_scores
    return by_similarity(pool, domain, centre=centre), None


def _random(dataset: store.Artefact, only: Rows | None, *, seed: int) -> Wide:
    found = np.full(dataset.n, np.nan)
    wanted = np.arange(dataset.n) if only is None else only
    wanted = wanted[dataset.read("status")[wanted] < store.RowStatus.UNREADABLE]
    found[wanted] = random_scores(dataset.read("row_id")[wanted], seed=seed)
    return found


def _features(
    stored: store.Store, *, pool: str, domain: str | None, feature: str
) -> tuple[store.Artefact, store.Artefact]:
    """The features of pool and domain, checked to be finished, current and made alike."""
    if domain is None:
        raise UsageError("--domain is missing: this method compares with a domain.", "Give --domain DATA.")
    sides = [
        stored.get(f"features/{store.check_name(data, option)}/{store.check_name(feature, '--feature')}")
        for data, option in ((pool, "--pool"), (domain, "--domain"))
    ]
    for side in sides:
        stored.check_parents(side)
    alike = [{key: value for key, value in side.spec.items() if key not in _MAY_DIFFER} for side in sides]
    if changed := store.differences(alike[1], alike[0]):
        raise SpecError(
            f"{sides[0].name} and {sides[1].name} were not made alike, so they don't compare: "
            + "; ".join(f"{d.field} is {d.new} for the pool and {d.old} for the domain" for d in changed)
            + ".",
            "Featurize one of them again with the other's settings, under another --feature.",
        )
    return sides[0], sides[1]


def _result(artefact: store.Artefact, method: str) -> ScoreResult:
    values = artefact.read("score")
    scored = values[~np.isnan(values)]
    low, high = (float(scored.min()), float(scored.max())) if len(scored) else (float("nan"), float("nan"))
    return ScoreResult(artefact.name, method, artefact.n, len(scored), low, high, artefact.digest())
