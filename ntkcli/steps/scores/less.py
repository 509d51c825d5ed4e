"""LESS (arXiv 2402.04333): how a step of training on a pool row would move the domain's loss, by checkpoints.

    s_j = max over groups of  mean_{i in group}  sum_c  eta_c · cos( grad loss(a_i), Gamma(x_j) )  at checkpoint c

The pool's side are Adam's steps Gamma (`featurize --kind loss --adam`), the domain's side plain gradients of the loss
under the same feature name. A feature a checkpoint; the weights eta are the checkpoints' mean learning rates, as shares
of 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.errors import UsageError
from ntkcli.scoring.features import FeatureReader, Rows
from ntkcli.scoring.similarity import cosine_scores
from ntkcli.steps.scores.inputs import covering_reader, domain_groups, features_of, group_readers
from ntkcli.steps.scores.sorts import Request, ScorePlan, ScoresAndTies


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """One feature, of the pool (and its reader) and of the domains, and the mean learning rate (None: no Adam)."""

    pool_features: store.Artefact
    domain_features: dict[str, store.Artefact]
    reader: FeatureReader
    rate: float | None


def plan_less(request: Request) -> ScorePlan:
    """The plan of the method less, over one or more features.

    Raises:
        UsageError: they are not of the loss, the domain's are Adam's steps, or only some of the pool's are; or Adam's
            steps are to be centred.
        SpecError: a pool's and a domain's side were not made alike.
    """
    stored, dataset, features = request.stored, request.dataset, request.features
    domains, group_by, centre, progress = request.domains, request.group_by, request.centre, request.progress
    if len(set(features)) < len(features):
        raise UsageError("A --feature is given twice.", "Give each checkpoint's feature once.")
    groups = domain_groups(stored, domains, group_by=group_by)
    found = [
        _checkpoint(stored, dataset, request.only, domains=domains, feature=feature, on_block=progress.advance)
        for feature in features
    ]
    weights = _weights(found)
    if centre and found[0].rate is not None:
        refuse_centre(found[0].pool_features)
    if found[0].rate is None:
        progress.note(
            f"{found[0].pool_features.name} holds plain gradients, not Adam's steps, so this is LESS with SGD; "
            "`ntksel finetune --keep-optimizer` and `ntksel featurize --kind loss --adam` make it LESS"
        )
    of_domains = [[point.domain_features[domain] for domain in domains] for point in found]
    spec: dict[str, Any] = {
        "pool": [point.pool_features.fingerprint for point in found],
        "domain": [[one.fingerprint for one in each] for each in of_domains],
        "weights": weights,
        "centre": centre,
    }
    if len(domains) > 1 or group_by:
        spec["groups"] = {"by": group_by or "domain"}

    readers = [group_readers(stored, point.domain_features, groups) for point in found]

    def compute() -> ScoresAndTies:
        total = np.zeros((dataset.n, len(groups)))
        for weight, point, each in zip(weights, found, readers, strict=True):
            total += weight * cosine_scores(point.reader, each, centre=centre)
        return total, None

    def measured() -> NDArray[np.bool_]:
        every: NDArray[np.bool_] = np.logical_and.reduce([point.reader.measured() for point in found])
        return every

    pairs = zip(found, of_domains, strict=True)
    used = [artefact for point, each in pairs for artefact in (point.pool_features, *each)]
    rows = sum(point.pool_features.n for point in found) * (1 + centre)
    parents = {artefact.name: artefact.fingerprint for artefact in used}
    return ScorePlan(spec, parents, compute, total=lambda: rows, measured=measured)


def refuse_centre(side: store.Artefact) -> None:
    """UsageError: Adam's steps and plain gradients have no mean in common that both could lose.

    (Their own mean, taken from the domain's gradients, would leave nothing of the direction they are compared by.)
    """
    raise UsageError(
        f"--centre: {side.name} holds Adam's steps and the domain's side plain gradients, which share no mean.",
        "Leave --centre out, or featurize the pool without --adam.",
    )


def _checkpoint(
    stored: store.Store,
    dataset: store.Artefact,
    only: Rows | None,
    *,
    domains: Sequence[str],
    feature: str,
    on_block: Callable[[int], None],
) -> _Checkpoint:
    pool = dataset.name.partition("/")[2]
    pool_features, domain_features = features_of(stored, pool=pool, domains=domains, feature=feature, pool_by_adam=True)
    if pool_features.spec.get("kind") != "loss":
        raise UsageError(
            f"--method less compares gradients of the loss, and {pool_features.name} is of kind "
            f"{pool_features.spec.get('kind')}.",
            "Featurize both sides with --kind loss, the pool with --adam, and give that --feature.",
        )
    for each in domain_features.values():
        if "adam" in each.spec:
            raise UsageError(
                f"{each.name} holds Adam's steps; the domain's side of --method less are plain gradients.",
                "Featurize it without --adam, and both sides under another --feature.",
            )
    reader = covering_reader(pool_features, dataset=dataset, only=only, on_block=on_block)
    rate = pool_features.spec["adam"]["mean_learning_rate"] if "adam" in pool_features.spec else None
    return _Checkpoint(pool_features, domain_features, reader, rate)


def _weights(found: Sequence[_Checkpoint]) -> list[float]:
    """The learning rates as shares of 1; equal ones without Adam, of which no rate is known."""
    rates = [point.rate for point in found if point.rate is not None]
    if rates and len(rates) < len(found):
        plain = next(point.pool_features.name for point in found if point.rate is None)
        raise UsageError(f"{plain} holds plain gradients, other features Adam's steps.", "Give features of one sort.")
    total = sum(rates)
    return [rate / total for rate in rates] if total > 0 else [1 / len(found)] * len(found)
