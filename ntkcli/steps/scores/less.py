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

import store
from ntkcli.errors import UsageError
from ntkcli.progress import Progress
from ntkcli.scoring.features import FeatureReader, Rows
from ntkcli.scoring.similarity import cosine_scores
from ntkcli.steps.scores.methods import Found, Job
from ntkcli.steps.scores.sides import covering_reader, domain_groups, features_of, group_readers


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """One feature: the pool's side and its reader, the domains' sides, and the mean learning rate (None: no Adam)."""

    side: store.Artefact
    sides: dict[str, store.Artefact]
    reader: FeatureReader
    rate: float | None


def less_job(
    stored: store.Store,
    dataset: store.Artefact,
    only: Rows | None,
    *,
    domains: Sequence[str],
    group_by: str | None,
    features: Sequence[str],
    centre: bool,
    progress: Progress,
) -> Job:
    """Of the method less over one or more features.

    Raises:
        UsageError: they are not of the loss, the domain's are Adam's steps, or only some of the pool's are.
        SpecError: a pool's and a domain's side were not made alike.
    """
    if len(set(features)) < len(features):
        raise UsageError("A --feature is given twice.", "Give each checkpoint's feature once.")
    groups = domain_groups(stored, domains, group_by=group_by)
    found = [
        _checkpoint(stored, dataset, only, domains=domains, feature=feature, on_block=progress.advance)
        for feature in features
    ]
    weights = _weights(found)
    if found[0].rate is None:
        progress.note(
            f"{found[0].side.name} holds plain gradients, not Adam's steps, so this is LESS with SGD; "
            "`ntksel finetune --keep-optimizer` and `ntksel featurize --kind loss --adam` make it LESS"
        )
    sides = [[point.sides[domain] for domain in domains] for point in found]
    spec: dict[str, Any] = {
        "pool": [point.side.fingerprint for point in found],
        "domain": [[side.fingerprint for side in each] for each in sides],
        "weights": weights,
        "centre": centre,
    }
    if len(domains) > 1 or group_by:
        spec["groups"] = {"by": group_by or "domain"}

    readers = [group_readers(stored, point.sides, groups) for point in found]

    def compute() -> Found:
        total = np.zeros((dataset.n, len(groups)))
        for weight, point, each in zip(weights, found, readers, strict=True):
            total += weight * cosine_scores(point.reader, each, centre=centre)
        return total, None

    used = [artefact for point, each in zip(found, sides, strict=True) for artefact in (point.side, *each)]
    rows = sum(point.side.n for point in found) * (1 + centre)
    return Job(spec, {artefact.name: artefact.fingerprint for artefact in used}, compute, total=rows)


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
    side, sides = features_of(stored, pool=pool, domains=domains, feature=feature, pool_by_adam=True)
    if side.spec.get("kind") != "loss":
        raise UsageError(
            f"--method less compares gradients of the loss, and {side.name} is of kind {side.spec.get('kind')}.",
            "Featurize both sides with --kind loss, the pool with --adam, and give that --feature.",
        )
    for each in sides.values():
        if "adam" in each.spec:
            raise UsageError(
                f"{each.name} holds Adam's steps; the domain's side of --method less are plain gradients.",
                "Featurize it without --adam, and both sides under another --feature.",
            )
    reader = covering_reader(side, dataset=dataset, only=only, on_block=on_block)
    rate = side.spec["adam"]["mean_learning_rate"] if "adam" in side.spec else None
    return _Checkpoint(side, sides, reader, rate)


def _weights(found: Sequence[_Checkpoint]) -> list[float]:
    """The learning rates as shares of 1; equal ones without Adam, of which no rate is known."""
    rates = [point.rate for point in found if point.rate is not None]
    if rates and len(rates) < len(found):
        plain = next(point.side.name for point in found if point.rate is None)
        raise UsageError(f"{plain} holds plain gradients, other features Adam's steps.", "Give features of one sort.")
    total = sum(rates)
    return [rate / total for rate in rates] if total > 0 else [1 / len(found)] * len(found)
