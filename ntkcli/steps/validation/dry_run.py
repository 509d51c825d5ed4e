"""What a validation would take, and what it could show, without loading weights: runs, tokens, hours, power."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice

import numpy as np

import store
from ntkcli.data.encoding import Encoded
from ntkcli.steps.evaluation.item_tokens import encode_item
from ntkcli.steps.shared.cost import SAMPLE_ROWS, weight_size
from ntkcli.steps.shared.row_sets import rows_in_order
from ntkcli.steps.shared.token_counts import Counts, count, counts_of, find_counts
from ntkcli.steps.training.dry_run import FORWARD, OPERATIONS
from ntkcli.steps.validation.measures import Power
from ntkcli.steps.validation.plan import BASE, DOMAIN, make_runs
from ntkcli.steps.validation.request import Request, pool_without_tokens
from ntkcli.steps.validation.result import power_of, spread_of
from ntkcli.steps.validation.validate import measures_of
from ntkcli.steps.validation.wording import power_sentences


@dataclass(frozen=True, slots=True)
class ValidateEstimate:
    """Cost and power of a validation. Tokens are of all runs that are not done yet, extrapolated from a sample of rows.

    `power` is from the spread between seeds of validations in this store on the same items and folds; its sentences
    report if that is not known yet.
    """

    runs: int
    folds: int | None
    runs_done: int
    rows: int
    domain_repeat: int
    train_tokens: int
    test_tokens: int
    seconds: float
    disk_bytes: int
    power: Power
    sentences: tuple[str, ...]


def estimate_validation(request: Request) -> ValidateEstimate:
    """The cost of the runs that are left."""
    from ntkcli.engine.models.loading import load_tokenizer
    from ntkcli.engine.models.speed import operations_per_second

    design, spec = request.design, request.spec
    runs = make_runs(pool_without_tokens(request), design, request.scored.names)
    done = 0 if request.known is None else request.known.rows_done()
    trainings = [run for run in runs for _ in range(request.n_folds)]
    left = trainings[done:]
    use = request.asked.use
    encoder = use.encoder(load_tokenizer(request.identity))
    domain = count(islice(request.domain_rows, SAMPLE_ROWS), request.identity, **use.counting())
    per_domain = _mean(domain, encoder.max_length) * len(request.domain_rows) * request.domain_repeat
    per_domain *= 1 if request.folds is None else 1 - 1 / request.n_folds
    per_pool = _mean(_pool_counts(request), encoder.max_length) * design.n
    trained = [per_domain + (0 if run.design == DOMAIN else per_pool) for run in left if run.design != BASE]
    each = [spec["max_tokens"] if spec["max_tokens"] else spec["epochs"] * tokens for tokens in trained]
    items = range(len(request.items.rows))
    test = sum(_tokens(encode_item(request.items, i, encoder)[1]) for i in items) * len(left) // request.n_folds
    parameters, _ = weight_size(request.identity)
    power = power_of(
        _known_spread(request),
        n_bins=len(design.edges),
        n_seeds=len(design.seeds),
        n_subsets=design.subsets,
    )
    return ValidateEstimate(
        runs=len(trainings),
        folds=None if request.folds is None else request.n_folds,
        runs_done=done,
        rows=design.n,
        domain_repeat=request.domain_repeat,
        train_tokens=round(sum(each)),
        test_tokens=test,
        seconds=(OPERATIONS * sum(each) + FORWARD * test) * parameters / operations_per_second(use.device),
        disk_bytes=len(left) * (8 * design.n + 5 * len(request.items.rows) + 100),
        power=power,
        sentences=tuple(power_sentences(power)),
    )


def _known_spread(request: Request) -> float:
    """The spread between seeds that the store's validations on these items, in these folds, show; NaN if none does."""
    spreads = []
    for artefact in request.stored.artefacts(store.Kind.VALIDATION):
        alike = all(artefact.spec.get(key) == request.spec.get(key) for key in ("tasks", "folds"))
        if alike and artefact.rows_done():
            found = spread_of(measures_of(artefact, request))
            spreads += [found] if math.isfinite(found) else []
    return float(np.sqrt(np.mean(np.square(spreads)))) if spreads else math.nan


def _pool_counts(request: Request) -> Counts:
    """Exact where the rows were counted before, else of the first rows of the pool."""
    scored, how = request.scored, request.asked.use.counting()
    found = find_counts(request.stored, scored.dataset, request.identity, **how)
    if found is not None:
        return counts_of(found, None)
    rows = rows_in_order(scored.file, None, scored.dataset.read("status"))
    return count(islice(rows, SAMPLE_ROWS), request.identity, **how)


def _mean(counts: Counts, max_length: int) -> float:
    good = np.minimum(counts.length[counts.good()], max_length)
    return float(good.mean()) if len(good) else 0.0


def _tokens(encoded: list[Encoded]) -> int:
    return sum(len(one) for one in encoded)
