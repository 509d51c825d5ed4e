"""What each way to score needs: its part of the spec, its parents, and the work, not yet done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.errors import DataError, UsageError
from ntkcli.scoring.features import FeatureReader, Rows, Wide
from ntkcli.scoring.nearest import rds_scores
from ntkcli.scoring.random import random_scores
from ntkcli.scoring.similarity import cosine_scores, max_scores, mean_scores
from ntkcli.scoring.subspace import gist_scores
from ntkcli.scoring.text import bm25_scores, dsir_scores, match_length_scores
from ntkcli.scoring.votes import vote_scores
from ntkcli.scoring.whitening import MAX_BYTES, WhitenedReader, whitener, whitening_bytes
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
ScoresAndTies = tuple[Wide, Wide | None]
"""Scores (n,) or, before groups are joined, (n, groups); and what breaks ties (n,), if anything."""


@dataclass(slots=True)
class ScorePlan:
    """What a method needs: its part of the spec, its parents, the work and how many rows it reads.

    `measured` gives the rows that have features and so must get a finite score, (n,); none for other methods.
    """

    spec: dict[str, Any]
    parents: dict[str, str]
    compute: Callable[[], ScoresAndTies]
    total: int = 0
    measured: Callable[[], NDArray[np.bool_] | np.bool_] = np.bool_


def plan_by_features(
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
    subspace: float,
    whiten: float | None,
    on_block: Callable[[int], None],
) -> ScorePlan:
    """Of the methods that compare features of one kind."""
    pool = dataset.name.partition("/")[2]
    pool_features, domain_features = features_of(stored, pool=pool, domains=domains, feature=feature)
    groups = domain_groups(stored, domains, group_by=group_by)
    reader = covering_reader(pool_features, dataset=dataset, only=only, on_block=on_block)
    fingerprints = [domain_features[domain].fingerprint for domain in domains]
    spec: dict[str, Any] = {"pool": pool_features.fingerprint, "domain": fingerprints[0], "centre": centre}
    if len(domains) > 1 or group_by:
        spec |= {"domain": fingerprints, "groups": {"by": group_by or "domain"}}
    if method in ("votes", "rds"):
        covered = len(reader.covered)
        if k is not None and k > reader.usable:
            raise UsageError(
                f"-k {k}: {pool_features.name} has {reader.usable} rows to choose from.",
                f"Give -k up to {reader.usable}.",
            )
        spec["k"] = k = k or min(max(MIN_VOTES, round(VOTE_SHARE * covered)), covered)
    if method == "gist":
        spec["subspace"] = subspace
    if whiten is not None:
        if (need := whitening_bytes(reader.dim)) > MAX_BYTES:
            raise UsageError(
                f"--whiten: features of {reader.dim} numbers need {need / 2**30:.0f} GiB, more than the "
                f"{MAX_BYTES >> 30} GiB allowed.",
                "Featurize with a smaller --dim, or leave --whiten out.",
            )
        spec["whiten"] = whiten
    parents = {artefact.name: artefact.fingerprint for artefact in (pool_features, *domain_features.values())}

    readers = group_readers(stored, domain_features, groups)

    def compute() -> ScoresAndTies:
        if whiten is None:
            return _by_features(method, reader, readers, centre=centre, k=k or 0, subspace=subspace)
        matrix = whitener(reader, damping=whiten)
        pool_side, *sides = (WhitenedReader.of(each, matrix) for each in (reader, *readers))
        return _by_features(method, pool_side, sides, centre=centre, k=k or 0, subspace=subspace)

    passes = (1 if method in ("mean", "cosine") else len(groups)) + centre + (whiten is not None)
    return ScorePlan(spec, parents, compute, total=pool_features.n * passes, measured=reader.measured)


def _by_features(
    method: str, pool: FeatureReader, groups: Sequence[FeatureReader], *, centre: bool, k: int, subspace: float
) -> ScoresAndTies:
    if method in ("mean", "cosine"):
        return (mean_scores if method == "mean" else cosine_scores)(pool, groups, centre=centre), None
    if method == "max":
        return np.stack([max_scores(pool, group, centre=centre) for group in groups], axis=1), None
    if method == "gist":
        found_in = [gist_scores(pool, group, subspace=subspace, centre=centre) for group in groups]
        return np.stack(found_in, axis=1), None
    by_lists = vote_scores if method == "votes" else rds_scores
    found = [by_lists(pool, group, k=k, centre=centre) for group in groups]
    ties = np.stack([tie for _, tie in found], axis=1)
    return np.stack([scores for scores, _ in found], axis=1), ties.max(axis=1)


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
