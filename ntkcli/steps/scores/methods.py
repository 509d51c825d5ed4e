"""What each way to score needs: its part of the spec, its parents, and the work, not yet done."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.errors import DataError, UsageError
from ntkcli.scoring.features import FeatureReader, Rows
from ntkcli.scoring.random import random_scores
from ntkcli.scoring.text import bm25_scores, dsir_scores, match_length_scores
from ntkcli.scoring.whitening import MAX_BYTES, whitening_bytes
from ntkcli.steps.scores.feature_pass import BY_LISTS, SHARE_A_PASS, FeaturePass, ScoresAndTies
from ntkcli.steps.scores.inputs import (
    covering_reader,
    domain_groups,
    features_of,
    group_readers,
    texts_of,
)
from ntkcli.steps.shared.lengths import SPEC_KEY, Encoding, lengths, settle_encoding

VOTE_SHARE = 0.005
"""Of the pool, what each domain row votes for by default: the paper's 9,000 of 1.8 million."""
MIN_VOTES = 10


@dataclass(slots=True)
class ScorePlan:
    """What a method needs: its part of the spec, its parents, the work and how many rows `compute` will read.

    `measured` gives the rows that have features and so must get a finite score, (n,); none for other methods. `skip`
    says that `compute` will not be called.
    """

    spec: dict[str, Any]
    parents: dict[str, str]
    compute: Callable[[], ScoresAndTies]
    total: Callable[[], int] = int
    measured: Callable[[], NDArray[np.bool_] | np.bool_] = np.bool_
    skip: Callable[[], None] = lambda: None


def plan_by_features(
    stored: store.Store,
    dataset: store.Artefact,
    only: Rows | None,
    *,
    methods: Sequence[str],
    domains: Sequence[str],
    group_by: str | None,
    feature: str,
    centre: bool,
    k: int | None,
    subspace: float,
    whiten: float | None,
    on_block: Callable[[int], None],
) -> list[ScorePlan]:
    """Of methods that compare features of one kind, in their order; those that can share a pass over the pool."""
    pool = dataset.name.partition("/")[2]
    pool_features, domain_features = features_of(stored, pool=pool, domains=domains, feature=feature)
    groups = domain_groups(stored, domains, group_by=group_by)
    reader = covering_reader(pool_features, dataset=dataset, only=only, on_block=on_block)
    fingerprints = [domain_features[domain].fingerprint for domain in domains]
    spec: dict[str, Any] = {"pool": pool_features.fingerprint, "domain": fingerprints[0], "centre": centre}
    if len(domains) > 1 or group_by:
        spec |= {"domain": fingerprints, "groups": {"by": group_by or "domain"}}
    if any(method in BY_LISTS for method in methods):
        k = _nearest_count(k, pool_features, reader)
    if whiten is not None:
        _check_whitening(reader.dim)
        spec["whiten"] = whiten
    parents = {artefact.name: artefact.fingerprint for artefact in (pool_features, *domain_features.values())}
    readers = group_readers(stored, domain_features, groups)
    shared = FeaturePass(reader, readers, centre=centre, whiten=whiten, k=k, subspace=subspace)
    plans = []
    for method in methods:
        own: dict[str, Any] = {"k": k} if method in BY_LISTS else {"subspace": subspace} if method == "gist" else {}
        compute, skip = partial(shared.scores, method), partial(shared.skip, method)
        if method in SHARE_A_PASS:
            shared.ask(method)
        rows = partial(getattr, shared, "rows")
        plans.append(ScorePlan(copy.deepcopy(spec) | own, dict(parents), compute, rows, reader.measured, skip))
    return plans


def _nearest_count(k: int | None, pool_features: store.Artefact, reader: FeatureReader) -> int:
    """How many nearest pool rows count for each domain row."""
    covered = len(reader.covered)
    if k is not None and k > reader.usable:
        raise UsageError(
            f"-k {k}: {pool_features.name} has {reader.usable} rows to choose from.", f"Give -k up to {reader.usable}."
        )
    return k or min(max(MIN_VOTES, round(VOTE_SHARE * covered)), covered)


def _check_whitening(dim: int) -> None:
    if (need := whitening_bytes(dim)) > MAX_BYTES:
        raise UsageError(
            f"--whiten: features of {dim} numbers need {need / 2**30:.0f} GiB, more than the {MAX_BYTES >> 30} GiB "
            "allowed.",
            "Featurize with a smaller --dim, or leave --whiten out.",
        )


def plan_by_words(
    stored: store.Store,
    dataset: store.Artefact,
    only: Rows | None,
    *,
    method: str,
    domains: Sequence[str],
    group_by: str | None,
    seed: int,
) -> ScorePlan:
    """bm25 and dsir."""
    groups = domain_groups(stored, domains, group_by=group_by)
    sets = [stored.get(f"datasets/{domain}") for domain in domains]
    spec: dict[str, Any] = {"domain": [each.spec["digest"] for each in sets]}
    if len(domains) > 1 or group_by:
        spec["groups"] = {"by": group_by or "domain"}
    if method == "dsir":
        spec["seed"] = seed

    def compute() -> ScoresAndTies:
        texts = [[text for _, text in texts_of(stored, group.domain, group.rows)()] for group in groups]
        pool = texts_of(stored, dataset.name.partition("/")[2], only)
        if method == "bm25":
            return bm25_scores(pool, texts, n=dataset.n), None
        return dsir_scores(pool, texts, dataset.read("row_id").tolist(), seed=seed), None

    return ScorePlan(spec, {each.name: each.fingerprint for each in sets}, compute)


def plan_random(
    stored: store.Store,
    dataset: store.Artefact,
    only: Rows | None,
    *,
    seed: int,
    match_length: str | None,
    tokens_of: str | None,
    known: store.Artefact | None,
) -> ScorePlan:
    """random, of any length or of another set's lengths; `known` is the score of this name that is there already."""
    wanted = np.arange(dataset.n) if only is None else only
    wanted = wanted[dataset.read("status")[wanted] < store.RowStatus.UNREADABLE]
    ids = dataset.read("row_id").tolist()
    if match_length is None:

        def draw() -> ScoresAndTies:
            found = np.full(dataset.n, np.nan)
            found[wanted] = random_scores([ids[row] for row in wanted], seed=seed)
            return found, None

        return ScorePlan({"seed": seed}, {}, draw)
    pool = dataset.name.partition("/")[2]
    parent, data = _target(stored, match_length)
    encoding = settle_encoding(
        stored,
        pool,
        option="--match-length",
        tokens_of=tokens_of,
        made_from=[parent],
        others=[data],
        known=known,
    )

    def match() -> ScoresAndTies:
        target = _target_lengths(stored, parent, data, encoding)
        tokens = lengths(stored, pool, encoding, wanted)
        if not (tokens[wanted] > 0).any():
            raise DataError("No pool row has a known length in tokens.", "Featurize the pool first.")
        return match_length_scores(tokens, target, ids, wanted[tokens[wanted] > 0], seed=seed), None

    spec = {"seed": seed, "match_length": parent.fingerprint, SPEC_KEY: encoding.spec}
    if known is None:
        found = match()
        return ScorePlan(spec, {parent.name: parent.fingerprint}, lambda: found)
    return ScorePlan(spec, {parent.name: parent.fingerprint}, match)


def _target(stored: store.Store, reference: str) -> tuple[store.Artefact, str]:
    """What `--match-length` names, a selection or else a data set, and the name of its data set."""
    selection = stored.find(f"selections/{store.check_name(reference, '--match-length')}")
    artefact = selection or stored.get(f"datasets/{reference}")
    return artefact, str(artefact.attrs["data"]) if selection else reference


def _target_lengths(stored: store.Store, target: store.Artefact, data: str, encoding: Encoding) -> Rows:
    """The lengths in tokens (m,) of a selection's or a data set's rows, without those that can't be encoded."""
    rows = target.read("row") if target.name.startswith("selections/") else None
    found = lengths(stored, data, encoding, rows)
    found = found if rows is None else found[rows]
    found = found[found > 0]
    if not len(found):
        raise DataError(f"{target.name} of --match-length: no row of it can be encoded.", "Give another.")
    return found
