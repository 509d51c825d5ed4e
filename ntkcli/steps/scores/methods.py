"""What each way to score needs: its part of the spec, its parents, and the work, not yet done."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

import store
from ntkcli.errors import DataError, UsageError
from ntkcli.progress import advancing
from ntkcli.scoring.features import FeatureReader, Rows
from ntkcli.scoring.random import random_scores
from ntkcli.scoring.text import match_length_scores
from ntkcli.scoring.whitening import MAX_BYTES, WhitenedReader, whitener, whitening_bytes
from ntkcli.steps.scores.feature_pass import SHARE_A_PASS, FeaturePass
from ntkcli.steps.scores.inputs import covering_reader, domain_groups, features_of, group_readers, texts_of
from ntkcli.steps.scores.sorts import (
    FeatureInputs,
    FeatureScore,
    Request,
    ScorePlan,
    ScoresAndTies,
    TextInputs,
    TextScore,
)
from ntkcli.steps.shared.lengths import SPEC_KEY, Encoding, lengths, settle_encoding
from ntkcli.steps.shared.row_ids import RowIds

VOTE_SHARE = 0.005
"""Of the pool, what each domain row votes for by default: the paper's 9,000 of 1.8 million."""
MIN_VOTES = 10


@dataclass(frozen=True, slots=True)
class _Sides:
    """A plan without its work; the pool's features, and those of each group of domain rows."""

    plan: ScorePlan
    pool: FeatureReader
    groups: Callable[[], list[FeatureReader]]


def _sides(request: Request) -> _Sides:
    """Pool and domain by features of one name."""
    stored, dataset, domains = request.stored, request.dataset, request.domains
    pool_features, domain_features = features_of(
        stored, pool=dataset.name.partition("/")[2], domains=domains, feature=request.features[0]
    )
    groups = domain_groups(stored, domains, group_by=request.group_by)
    reader = covering_reader(pool_features, dataset=dataset, only=request.only, on_block=request.progress.advance)
    fingerprints = [domain_features[domain].fingerprint for domain in domains]
    spec: dict[str, Any] = {"pool": pool_features.fingerprint, "domain": fingerprints[0], "centre": request.centre}
    if len(domains) > 1 or request.group_by:
        spec |= {"domain": fingerprints, "groups": {"by": request.group_by or "domain"}}
    parents = {artefact.name: artefact.fingerprint for artefact in (pool_features, *domain_features.values())}
    plan = ScorePlan(spec, parents, _nothing, total=lambda: pool_features.n, measured=reader.measured)
    return _Sides(plan, reader, lambda: group_readers(stored, domain_features, groups))


def plan_by_model(request: Request) -> ScorePlan:
    """The plan of a score that runs the model on the rows; `ntkcli.steps.scores.exact` does the work, part by part."""
    return _sides(request).plan


def _nothing() -> ScoresAndTies:
    raise NotImplementedError("a model computes it, part by part")


def plan_by_features(request: Request, entries: Mapping[str, FeatureScore]) -> list[ScorePlan]:
    """The plans of methods that compare features of one name, in order; those of `SHARE_A_PASS` share a pass.

    `request` has the options of all of them; each plan has those that the method knows.
    """
    sides = _sides(request)
    reader, whiten = sides.pool, request.whiten
    k = _nearest_count(request.k, reader) if any("k" in entry.options for entry in entries.values()) else 0
    if whiten is not None:
        _check_whitening(reader)
    readers = sides.groups()
    shared = FeaturePass(reader, readers, centre=request.centre, whiten=whiten, k=k or None, subspace=request.subspace)
    plans = []
    for method, entry in entries.items():
        known = {"k": k, "subspace": request.subspace, "seed": request.seed}
        own: dict[str, Any] = {key: value for key, value in known.items() if key in entry.options}
        own["centre"] = request.centre and "centre" in entry.options
        if whiten is not None:
            own["whiten"] = whiten
        plan = replace(sides.plan, spec=copy.deepcopy(sides.plan.spec) | own, parents=dict(sides.plan.parents))
        if method in SHARE_A_PASS:
            shared.ask(method)
            plan.compute, plan.skip = partial(shared.scores, method), partial(shared.skip, method)
            plan.total = partial(getattr, shared, "rows")
        else:
            inputs = FeatureInputs(reader, readers, own["centre"], own.get("k", 0), request.subspace, request.seed)
            passes = 1 if entry.passes is None else entry.passes * len(readers)
            passes += inputs.centre + (whiten is not None)
            plan.compute = partial(_by_itself, entry, inputs, whiten)
            plan.total = partial(int, reader.artefact.n * passes)
        plans.append(plan)
    return plans


def _by_itself(entry: FeatureScore, inputs: FeatureInputs, whiten: float | None) -> ScoresAndTies:
    """What a method's own function gives."""
    if whiten is not None:
        found = whitener(inputs.pool, damping=whiten)
        pool, *groups = (WhitenedReader.of(each, found) for each in (inputs.pool, *inputs.groups))
        inputs = replace(inputs, pool=pool, groups=groups)
    return _checked(entry.compute(inputs), n=inputs.pool.n, groups=len(inputs.groups))


def _nearest_count(k: int | None, reader: FeatureReader) -> int:
    """How many nearest pool rows count for each domain row."""
    covered = len(reader.covered)
    if k is not None and k > reader.usable:
        raise UsageError(
            f"-k {k}: {reader.artefact.name} has {reader.usable} rows to choose from.",
            f"Give -k up to {reader.usable}.",
        )
    return k or min(max(MIN_VOTES, round(VOTE_SHARE * covered)), covered)


def _check_whitening(pool: FeatureReader) -> None:
    if (need := whitening_bytes(pool.dim, rows=pool.usable)) > MAX_BYTES:
        raise UsageError(
            f"--whiten: features of {pool.dim} numbers need {need / 2**30:.0f} GiB, more than the "
            f"{MAX_BYTES >> 30} GiB allowed.",
            "Featurize with a smaller --dim, or leave --whiten out.",
        )


def plan_by_texts(request: Request, entry: TextScore) -> ScorePlan:
    """The plan of a score that compares texts."""
    stored, dataset, domains = request.stored, request.dataset, request.domains
    groups = domain_groups(stored, domains, group_by=request.group_by)
    sets = [stored.get(f"datasets/{domain}") for domain in domains]
    spec: dict[str, Any] = {"domain": [each.spec["digest"] for each in sets]}
    if len(domains) > 1 or request.group_by:
        spec["groups"] = {"by": request.group_by or "domain"}
    if "seed" in entry.options:
        spec["seed"] = request.seed
    if entry.version > 1:
        spec["method_version"] = entry.version

    def compute() -> ScoresAndTies:
        texts = [[text for _, text in texts_of(stored, group.domain, group.rows)()] for group in groups]
        pool = texts_of(stored, dataset.name.partition("/")[2], request.only)
        inputs = TextInputs(
            lambda: advancing(pool(), request.progress), texts, dataset.n, RowIds(dataset), request.seed
        )
        return _checked(entry.compute(inputs), n=dataset.n, groups=len(groups))

    rows = dataset.n if request.only is None else len(request.only)
    parents = {each.name: each.fingerprint for each in sets}
    return ScorePlan(spec, parents, compute, total=lambda: rows * entry.passes)


def _checked(found: ScoresAndTies, *, n: int, groups: int) -> ScoresAndTies:
    """What a score gave, if it has the shape of one. ValueError if not."""
    scores, ties = found
    if scores.shape not in ((n,), (n, groups)):
        raise ValueError(f"its scores have the shape {scores.shape}, expected ({n},) or ({n}, {groups})")
    if ties is not None and ties.shape != (n,):
        raise ValueError(f"its ties have the shape {ties.shape}, expected ({n},)")
    return scores, ties


def plan_random(request: Request) -> ScorePlan:
    """random, of any length or of another set's lengths."""
    stored, dataset, only, seed = request.stored, request.dataset, request.only, request.seed
    match_length, known = request.match_length, request.known
    wanted = np.arange(dataset.n) if only is None else only
    wanted = wanted[dataset.read("status")[wanted] < store.RowStatus.UNREADABLE]
    ids = RowIds(dataset)
    if match_length is None:

        def draw() -> ScoresAndTies:
            found = np.full(dataset.n, np.nan)
            rows = advancing(wanted.tolist(), request.progress)
            found[wanted] = random_scores((ids[row] for row in rows), n=len(wanted), seed=seed)
            return found, None

        return ScorePlan({"seed": seed}, {}, draw, total=lambda: len(wanted))
    pool = dataset.name.partition("/")[2]
    parent, data = _target(stored, match_length)
    encoding = settle_encoding(
        stored,
        pool,
        option="--match-length",
        tokens_of=request.tokens_of,
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
