"""Score every pool row by its features or words against the domain's, streaming over the pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import Across, Dtype, GroupBy, OnError, checked
from ntkcli.data.references import split_name
from ntkcli.errors import UsageError
from ntkcli.progress import Progress, Silent
from ntkcli.scoring.features import Rows, Wide
from ntkcli.scoring.groups import across_groups
from ntkcli.seeds import check_seed
from ntkcli.steps.scores import exact
from ntkcli.steps.scores.feature_pass import SHARE_A_PASS
from ntkcli.steps.scores.less import plan_less
from ntkcli.steps.scores.losses import WEIGHTED, plan_drop, weigh_by_residual
from ntkcli.steps.scores.methods import ScorePlan, plan_by_features, plan_by_words, plan_random
from ntkcli.steps.shared.datasets import data_file, data_name, moved_data
from ntkcli.steps.shared.disk_room import refuse_without_room
from ntkcli.steps.shared.environment import begin, environment
from ntkcli.steps.shared.non_finite import settle_non_finite
from ntkcli.steps.shared.row_sets import rows_in_order, selected_rows
from ntkcli.steps.shared.stores import DATASET_PART_ROWS, open_store, write_rows

VERSION = 2
"""Of the scores, in every spec: goes up when the same features would give other scores."""
BY_FEATURES = ("votes", "mean", "cosine", "max", "rds", "less", "gist")
BY_WORDS = ("bm25", "dsir")
SUBSPACE = 0.9
"""The share of the domain's energy that gist keeps by default."""
PACKAGES = {"bm25": ("bm25s",)}
"""Optional packages that a method computes with, by name."""
FIX = "Score by --method cosine, which leaves lengths out, or give --on-error skip to leave these rows out."
METHODS = (*BY_FEATURES, "exact", "drop", *BY_WORDS, "random")


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
    group_by: GroupBy | None = None,
    across: Across = Across.MAX,
    feature: str | Sequence[str] | None = None,
    rows: str | None = None,
    centre: bool = False,
    k: int | None = None,
    subspace: float | None = None,
    whiten: float | None = None,
    residual: bool = False,
    seed: int = 0,
    match_length: str | None = None,
    tokens_of: str | None = None,
    dtype: Dtype = Dtype.AUTO,
    device: str = "auto",
    batch_tokens: int | None = None,
    on_error: OnError = OnError.FAIL,
    data: Sequence[str] = (),
    progress: Progress | None = None,
) -> ScoreResult:
    """Write `scores/<name>`: one float32 a row of the data set `pool`, NaN where there is none.

    `pool` and `domain` are data sets of the store, or NAME=FILE, which names a file's rows there first (bad ones
    as `on_error` says). Methods:
    `ntkcli.scoring`, `less` (`ntkcli.steps.scores.less`) and `exact` (`ntkcli.engine.features.exact_scores`). `feature`
    names the features on all sides (default ntk, for less loss; less takes several; words and random take none); `rows`
    keeps to a selection of the pool; `k` is for votes and rds (default 0.5% of the pool, at least 10), `subspace`
    for gist (a share of energy below 1, else directions; default 0.9), `seed` for dsir
    and random. drop, which takes no domain, and `residual` read the losses that the features hold
    (`ntkcli.steps.scores.losses`). Several domains, or `group_by="source"`, make groups: a score each, joined by
    `across` (max, mean).
    `match_length` names a data set or a selection whose lengths in tokens random rows shall have, counted as
    `ntkcli.steps.shared.lengths` settles it or by `tokens_of` (features of the pool, or a model). `dtype` (auto: the
    features'), `device` and `batch_tokens` are for exact, which computes. With on_error "skip" rows whose values are
    not finite get no score. `data` says where files of data sets are now (NAME=FILE), if they have moved.

    Raises:
        store.MissingArtefactError, store.IncompleteError: features are missing or not finished.
        SpecError: the sides' features were not made alike, or don't cover the rows.
        NtkselError: rows' values are not finite, with on_error "fail"; names them.
    """
    return scores(
        store_path,
        pool=pool,
        methods={name: method},
        domain=domain,
        group_by=group_by,
        across=across,
        feature=feature,
        rows=rows,
        centre=centre,
        k=k,
        subspace=subspace,
        whiten=whiten,
        residual=residual,
        seed=seed,
        match_length=match_length,
        tokens_of=tokens_of,
        dtype=dtype,
        device=device,
        batch_tokens=batch_tokens,
        on_error=on_error,
        data=data,
        progress=progress,
    )[0]


def scores(
    store_path: str | Path, *, pool: str, methods: Mapping[str, str], domain: str | Sequence[str] | None = None,
    group_by: GroupBy | None = None, across: Across = Across.MAX, feature: str | Sequence[str] | None = None,
    rows: str | None = None, centre: bool = False, k: int | None = None, subspace: float | None = None,
    whiten: float | None = None, residual: bool = False, seed: int = 0, match_length: str | None = None,
    tokens_of: str | None = None, dtype: Dtype = Dtype.AUTO, device: str = "auto", batch_tokens: int | None = None,
    on_error: OnError = OnError.FAIL, data: Sequence[str] = (), progress: Progress | None = None,
) -> list[ScoreResult]:  # fmt: skip
    """Write several scores of one pool: `methods` is name -> method. Each is what `score` alone would write.

    Methods of `SHARE_A_PASS` read the pool's features once together; others are computed one after the other. An option
    goes to the methods that know it. Scores that are finished are left as they are. Errors: as for `score`.
    """
    progress = progress or Silent()
    domains = [domain] if isinstance(domain, str) else list(domain or ())
    features = [feature] if isinstance(feature, str) else list(feature or ())
    how = _How(domains, group_by, features, centre, k, subspace, whiten, residual, seed, match_length, tokens_of)
    computes = dtype != Dtype.AUTO or device != "auto" or batch_tokens is not None
    _check_options(list(methods.values()), how, across=across, computes=computes)
    check_seed("--seed", seed)
    names = [store.check_name(name, "--name") for name in methods]
    files = [name for name, _ in map(split_name, (pool, *domains)) if name is not None]
    stored = open_store(store_path, create=bool(files))
    moved_data(stored, data, default=[pool])
    pool = data_name(stored, pool, option="--pool", on_error=on_error)
    how = replace(how, domains=[data_name(stored, each, option="--domain", on_error=on_error) for each in domains])
    dataset = stored.get(f"datasets/{pool}")
    parents = {dataset.name: dataset.fingerprint}
    spec: dict[str, Any] = {"version": VERSION, "data": dataset.spec["digest"], "rows": None}
    only: Rows | None = None
    if rows is not None:
        only, selection = selected_rows(stored, rows, dataset=dataset)
        parents[selection.name] = spec["rows"] = selection.fingerprint
    plans = _plans(stored, dataset, only, methods, how, progress)
    for name, plan in plans.items():
        if "groups" in plan.spec:
            plan.spec["groups"]["across"] = across
        if methods[name] == "exact":
            known = stored.find(f"scores/{name}")
            plan.spec |= exact.exact_spec(stored.get(f"features/{pool}/{how.feature}"), known, dtype=dtype)
    artefacts = _create_all(stored, dataset, methods, plans, spec, parents, progress)
    for name, method in methods.items():
        artefact = artefacts[name]
        if artefact.complete:
            continue
        if method == "exact":
            exact.fill_exact(
                stored, artefact, features=stored.get(f"features/{pool}/{how.feature}"), pool=dataset,
                domain=stored.get(f"datasets/{how.domains[0]}"), only=only, device=device, batch_tokens=batch_tokens,
                on_error=on_error, progress=progress,
            )  # fmt: skip
        else:
            begin(artefact, environment(*PACKAGES.get(method, ())), progress)
            _fill(stored, artefact, dataset, plans[name], across=across, on_error=on_error, progress=progress)
    progress.stop()
    unusable = sum(_unusable(stored.get(f"datasets/{each}")) for each in files)
    return [
        replace(result_of(artefacts[name], methods[name]), skipped=_left_out(artefacts[name], plans[name]) + unusable)
        for name in names
    ]


def _create_all(
    stored: store.Store, dataset: store.Artefact, methods: Mapping[str, str], plans: Mapping[str, ScorePlan],
    spec: dict[str, Any], parents: dict[str, str], progress: Progress,
) -> dict[str, store.Artefact]:  # fmt: skip
    """The scores in the store, new or known. Plans of those that are finished are skipped."""
    artefacts = {}
    # Those that are there first: one that another spec has the name of is refused before anything is made.
    for name in sorted(methods, key=lambda each: stored.find(f"scores/{each}") is None):
        plan, method = plans[name], methods[name]
        whole = spec | {"method": method} | plan.spec
        artefact = create_score(stored, name, whole, parents | plan.parents, dataset, exact_ones=method == "exact")
        refuse_without_room(artefact, artefact.pending(), instead="")
        artefacts[name] = artefact
        if artefact.complete:
            progress.note(f"{artefact.name} is finished already")
            plan.skip()
    return artefacts


@dataclass(frozen=True, slots=True)
class _How:
    """The options of all methods, as `scores` takes them."""

    domains: list[str]
    group_by: GroupBy | None
    features: list[str]
    centre: bool
    k: int | None
    subspace: float | None
    whiten: float | None
    residual: bool
    seed: int
    match_length: str | None
    tokens_of: str | None

    @property
    def feature(self) -> str:
        """What methods compare that take one feature."""
        return self.features[0] if self.features else "ntk"


def _plans(
    stored: store.Store,
    dataset: store.Artefact,
    only: Rows | None,
    methods: Mapping[str, str],
    how: _How,
    progress: Progress,
) -> dict[str, ScorePlan]:
    """What each score (name -> method) needs; those that can share a pass over the pool's features do."""
    plans = {}
    for name, method in methods.items():
        if method == "random":
            plans[name] = plan_random(
                stored,
                dataset,
                only,
                seed=how.seed,
                match_length=how.match_length,
                tokens_of=how.tokens_of,
                known=stored.find(f"scores/{name}"),
            )
        elif method == "less":
            plans[name] = plan_less(
                stored,
                dataset,
                only,
                domains=how.domains,
                group_by=how.group_by,
                features=how.features or ["loss"],
                centre=how.centre,
                progress=progress,
            )
        elif method == "drop":
            plans[name] = plan_drop(stored, dataset, only, feature=how.feature, on_block=progress.advance)
        elif method in BY_WORDS:
            plans[name] = plan_by_words(
                stored, dataset, only, method=method, domains=how.domains, group_by=how.group_by, seed=how.seed
            )
    others = {name: method for name, method in methods.items() if name not in plans}
    if others:
        found = plan_by_features(
            stored,
            dataset,
            only,
            methods=list(others.values()),
            domains=how.domains,
            group_by=how.group_by,
            feature=how.feature,
            centre=how.centre,
            k=how.k,
            subspace=SUBSPACE if how.subspace is None else how.subspace,
            whiten=how.whiten,
            on_block=progress.advance,
        )
        plans |= dict(zip(others, found, strict=True))
    for name, method in others.items():
        if how.residual and method in WEIGHTED:
            plans[name] = weigh_by_residual(stored, dataset, only, plans[name], method=method, feature=how.feature)
    return plans


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


def _check_options(methods: Sequence[str], how: _How, *, across: Across, computes: bool) -> None:
    for method in methods:
        if method not in METHODS:
            raise UsageError(f"--method {method} is not known.", f"Give one of: {', '.join(METHODS)}.")
        if methods.count(method) > 1:
            raise UsageError(f"--method {method} is given twice.", "Give each method once.")
    checked(Across, across, "--across")
    for option, given, known in (
        ("--centre", how.centre, BY_FEATURES),
        ("--group-by", how.group_by is not None, (*BY_FEATURES, *BY_WORDS)),
        ("a second --domain", len(how.domains) > 1, (*BY_FEATURES, *BY_WORDS)),
        ("a second --feature", len(how.features) > 1, ("less",)),
        ("-k", how.k is not None, ("votes", "rds")),
        ("--subspace", how.subspace is not None, ("gist",)),
        ("--whiten", how.whiten is not None, tuple(each for each in BY_FEATURES if each != "less")),
        ("--residual", how.residual, WEIGHTED),
        ("--match-length", how.match_length is not None, ("random",)),
        ("--dtype, --device or --batch-tokens", computes, ("exact",)),
    ):
        if given and not set(methods) & set(known):
            raise UsageError(
                f"{option} means nothing to --method {', '.join(methods)}.", f"It is for {', '.join(known)}."
            )
    if len(how.features) > 1 and (
        others := [method for method in methods if method in (*SHARE_A_PASS, "exact", "drop")]
    ):
        raise UsageError(f"--method {others[0]} takes one --feature.", "Score by less in a command of its own.")
    if set(methods) == {"drop"} and how.domains:
        raise UsageError(
            "--domain means nothing to --method drop: the domain is what the features' adapter was trained on.",
            "Leave --domain out.",
        )
    if how.subspace is not None and not (
        0 < how.subspace < 1 or (how.subspace >= 1 and how.subspace == how.subspace // 1)
    ):
        raise UsageError(
            f"--subspace {how.subspace:g} is neither a share of energy nor a number of directions.",
            "Give a share between 0 and 1, or a whole number from 1.",
        )
    if how.whiten is not None and not 0 < how.whiten < float("inf"):
        raise UsageError(f"--whiten {how.whiten:g} is not above 0.", "Give a damping such as 0.1.")
    if how.tokens_of is not None and how.match_length is None:
        raise UsageError("--tokens-of says how lengths are counted, and nothing here has one.", "Give --match-length.")


def create_score(
    stored: store.Store,
    name: str,
    spec: dict[str, Any],
    parents: dict[str, str],
    dataset: store.Artefact,
    *,
    exact_ones: bool = False,
) -> store.Artefact:
    """The artefact `scores/<name>`, new or resumed; exact scores have a status, and smaller parts."""
    arrays = {"score": store.ArraySpec("float32"), "similarity": store.ArraySpec("float32")}
    if exact_ones:
        arrays["status"] = store.ArraySpec("uint8", attrs=store.status_attrs())
    return stored.create(
        f"scores/{store.check_name(name, '--name')}",
        kind=store.Kind.SCORE,
        spec=spec,
        parents=parents,
        n=dataset.n,
        part_rows=exact.PART_ROWS if exact_ones else DATASET_PART_ROWS,
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
