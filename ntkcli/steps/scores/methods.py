"""What each way to score needs: its part of the spec, its parents, and the work, not yet done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import store
from ntkcli.errors import DataError, UsageError
from ntkcli.scoring.features import FeatureReader, Rows, Wide
from ntkcli.scoring.nearest import rds_scores
from ntkcli.scoring.random import random_scores
from ntkcli.scoring.similarity import cosine_scores, max_scores, mean_scores
from ntkcli.scoring.text import bm25_scores, dsir_scores, match_length_scores
from ntkcli.scoring.votes import vote_scores
from ntkcli.steps.scores.sides import covering_reader, domain_groups, features_of, group_readers, texts_of, token_counts

VOTE_SHARE = 0.005
"""Of the pool, what each domain row votes for by default: the paper's 9,000 of 1.8 million."""
MIN_VOTES = 10
Found = tuple[Wide, Wide | None]
"""Scores (n,) or, before groups are joined, (n, groups); and what breaks ties (n,), if anything."""


@dataclass(slots=True)
class Job:
    """What a method needs: its part of the spec, its parents, the work and how many rows it reads."""

    spec: dict[str, Any]
    parents: dict[str, str]
    compute: Callable[[], Found]
    total: int = 0


def features_job(
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
) -> Job:
    """Of the methods that compare features of one kind."""
    pool = dataset.name.partition("/")[2]
    side, sides = features_of(stored, pool=pool, domains=domains, feature=feature)
    groups = domain_groups(stored, domains, group_by=group_by)
    reader = covering_reader(side, dataset=dataset, only=only, on_block=on_block)
    fingerprints = [sides[domain].fingerprint for domain in domains]
    spec: dict[str, Any] = {"pool": side.fingerprint, "domain": fingerprints[0], "centre": centre}
    if len(domains) > 1 or group_by:
        spec |= {"domain": fingerprints, "groups": {"by": group_by or "domain"}}
    if method in ("votes", "rds"):
        covered = len(reader.covered)
        if k is not None and k > reader.usable:
            raise UsageError(
                f"-k {k}: {side.name} has {reader.usable} rows to choose from.", f"Give -k up to {reader.usable}."
            )
        spec["k"] = k = k or min(max(MIN_VOTES, round(VOTE_SHARE * covered)), covered)
    parents = {artefact.name: artefact.fingerprint for artefact in (side, *sides.values())}

    readers = group_readers(stored, sides, groups)

    def compute() -> Found:
        return _by_features(method, reader, readers, centre=centre, k=k or 0)

    passes = (1 if method in ("mean", "cosine") else len(groups)) + centre
    return Job(spec, parents, compute, total=side.n * passes)


def _by_features(method: str, pool: FeatureReader, groups: Sequence[FeatureReader], *, centre: bool, k: int) -> Found:
    if method in ("mean", "cosine"):
        return (mean_scores if method == "mean" else cosine_scores)(pool, groups, centre=centre), None
    if method == "max":
        return np.stack([max_scores(pool, group, centre=centre) for group in groups], axis=1), None
    by_lists = vote_scores if method == "votes" else rds_scores
    found = [by_lists(pool, group, k=k, centre=centre) for group in groups]
    ties = np.stack([tie for _, tie in found], axis=1)
    return np.stack([scores for scores, _ in found], axis=1), ties.max(axis=1)


def words_job(
    stored: store.Store,
    dataset: store.Artefact,
    only: Rows | None,
    *,
    method: str,
    domains: Sequence[str],
    group_by: str | None,
    seed: int,
) -> Job:
    """bm25 and dsir."""
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

    return Job(spec, {each.name: each.fingerprint for each in sets}, compute)


def random_job(
    stored: store.Store, dataset: store.Artefact, only: Rows | None, *, seed: int, match_length: str | None
) -> Job:
    """random, of any length or of another set's lengths."""
    wanted = np.arange(dataset.n) if only is None else only
    wanted = wanted[dataset.read("status")[wanted] < store.RowStatus.UNREADABLE]
    ids = dataset.read("row_id").tolist()
    if match_length is None:

        def draw() -> Found:
            found = np.full(dataset.n, np.nan)
            found[wanted] = random_scores([ids[row] for row in wanted], seed=seed)
            return found, None

        return Job({"seed": seed}, {}, draw)
    target, parent = _target_lengths(stored, match_length)
    tokens = token_counts(stored, dataset.name.partition("/")[2])
    wanted = wanted[tokens[wanted] > 0]
    if not len(wanted):
        raise DataError("No pool row has a known length in tokens.", "Featurize the pool first.")
    spec = {"seed": seed, "match_length": parent.fingerprint}
    return Job(
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
