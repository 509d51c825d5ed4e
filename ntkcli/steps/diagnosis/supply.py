"""How many rows of a pool are near the domain at all, from a sample, before days of work are spent on choosing some."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ntkcli.choices import Kind
from ntkcli.errors import DataError, UsageError
from ntkcli.progress import Progress
from ntkcli.scoring.features import FeatureReader, Floats
from ntkcli.scoring.similarity import unit_rows
from ntkcli.statistics.supply import FEWEST_DOMAIN, Supply, nearness, own_nearness
from ntkcli.statistics.supply import supply as estimate
from ntkcli.steps.diagnosis.findings import Check, Cost, Distributions, Finding
from ntkcli.steps.diagnosis.request import Request
from ntkcli.steps.diagnosis.sample import cost_of, draw_sides, drawn
from ntkcli.steps.diagnosis.vectors import feature_settings, vectors
from ntkcli.steps.scores.inputs import features_of
from ntkcli.steps.shared.stores import open_store

ROWS, DOMAIN_ROWS = 2000, 500
"""Rows drawn by default: a share is then known to two points; the domain's nearest rows are found among 500."""
LEVELS = (1.0, 5.0, 25.0, 50.0)
"""Percentiles that the result reports beside the one asked for."""
MAX_LENGTH = 1024
PLENTY = 0.5
"""A share of the pool from which "near" tells little: the domain is as mixed as the pool, or the pool is all domain."""


@dataclass(frozen=True, slots=True)
class _Features:
    """Unit features of the domain's and the pool's rows; `total`: rows of the pool; `skipped`: rows left out."""

    domain: Floats
    pool: Floats
    total: int
    skipped: int


def supply(request: Request, *, progress: Progress) -> Finding:
    """Estimate the number of pool rows near the domain, by stored features or by embeddings computed now.

    Raises:
        DataError: the domain has too few rows. UsageError: both `feature` and `model` are given.
    """
    if request.feature and request.model:
        raise UsageError("--feature takes features of the store, --model computes embeddings.", "Give one of them.")
    found = _stored(request) if request.feature else _computed(request, progress)
    if len(found.domain) < FEWEST_DOMAIN:
        raise DataError(
            f"The domain has {len(found.domain)} rows with features: too few to measure how near its own rows are.",
            f"Give {FEWEST_DOMAIN} or more.",
        )
    mean = found.pool.mean(axis=0, dtype=np.float64).astype(np.float32)
    domain, pool = unit_rows(found.domain - mean), unit_rows(found.pool - mean)
    own = own_nearness((domain @ domain.T).astype(np.float64))
    if not len(own):
        raise DataError("The domain's rows all say the same.", "Give a domain of different rows.")
    near = nearness((pool @ domain.T).astype(np.float64))
    at = {
        level: estimate(own, near, pool_rows=found.total, q=level, seed=request.seed % 2**32)
        for level in (request.near, *LEVELS)
    }
    check = _check(request, at, found, len(near))
    panel = Distributions(
        "Nearness to the domain",
        "mean of the 5 highest centred cosines with domain rows",
        {"pool": near.tolist(), "domain, each row with the others": own.tolist()},
        at[request.near].threshold,
    )
    return Finding((check,), (panel,), found.skipped)


def supply_cost(request: Request) -> Cost:
    """What it would take."""
    if request.feature:
        return Cost("supply", 0, 0, 0, 0.0)
    setup, sides = draw_sides(request.stored(), request, rows=ROWS, domain_rows=DOMAIN_ROWS, max_length=MAX_LENGTH)
    return cost_of("supply", setup, sides, device=request.device, passes=0)


def _check(request: Request, at: dict[float, Supply], found: _Features, sample: int) -> Check:
    chosen, pool = at[request.near], str(request.pool)
    sentence = (
        f"About {chosen.rows:,} of the {found.total:,} rows of {pool} are near the domain (95% {chosen.low:,} to "
        f"{chosen.high:,}), by {sample:,} of them: at least as near as {100 - request.near:g}% of the domain's own "
        "rows are to each other."
    )
    details = {
        "pool_rows": found.total,
        "sample": sample,
        "domain_rows": len(found.domain),
        "share": chosen.share,
        "threshold": chosen.threshold,
        "percentile": request.near,
        "rows_at_percentile": {f"{level:g}": at[level].rows for level in LEVELS},
    }
    if request.n is not None:
        enough = "yes" if request.n <= chosen.low else "no" if request.n > chosen.high else "open"
        details |= {"n": request.n, "enough": enough}
        sentence += " " + _verdict(enough, request.n, chosen)
    if chosen.share > PLENTY:
        sentence += (
            " That is most of the pool: the domain's rows are hardly more alike than the pool's, or the pool is of the "
            "domain itself. Random rows may do as well."
        )
    return Check("supply", pool, chosen.rows, chosen.low, chosen.high, sentence, details)


def _verdict(enough: str, n: int, found: Supply) -> str:
    if enough == "yes":
        return f"So there are {n:,} near rows to choose from."
    if enough == "no":
        fewer = f"give -n {found.low:,} or less, or" if found.low else "give"
        return (
            f"So there are fewer than {n:,} near rows: {fewer} a larger pool. If the domain's rows share a template "
            "that the pool lacks, try without it."
        )
    return f"It is not clear if there are {n:,} near rows: give more --rows or --domain-rows, or a smaller -n."


def _computed(request: Request, progress: Progress) -> _Features:
    """Embeddings of rows drawn now."""
    setup, sides = draw_sides(request.stored(), request, rows=ROWS, domain_rows=DOMAIN_ROWS, max_length=MAX_LENGTH)
    domain, pool = sides
    settings = feature_settings(request, kind=Kind.EMBED)
    stored = open_store(request.store_path, create=True)
    made = vectors(
        stored, "supply", sides, request=request, setup=setup, adapter=setup.adapter, settings=settings,
        progress=progress, announce=lambda: cost_of("supply", setup, sides, device=request.device, passes=0),
    )  # fmt: skip
    good = np.isfinite(made.norm)
    of_domain = np.arange(len(good)) < len(domain.rows)
    skipped = domain.skipped + pool.skipped + int((~good).sum())
    return _Features(made.unit[good & of_domain], made.unit[good & ~of_domain], pool.total, skipped)


def _stored(request: Request) -> _Features:
    """Features that the store has of both data sets."""
    stored = open_store(request.store_path)
    pool, domain = str(request.pool), str(request.domain)
    pool_features, others = features_of(stored, pool=pool, domains=[domain], feature=str(request.feature))
    read: list[tuple[Floats, int]] = []
    for name, features, count in (
        (pool, pool_features, request.rows or ROWS),
        (domain, others[domain], request.domain_rows or DOMAIN_ROWS),
    ):
        n = stored.get(f"datasets/{name}").n
        measured = np.flatnonzero(FeatureReader(features, n=n).measured())
        chosen = drawn(measured, count, seed=request.seed)
        read.append((FeatureReader(features, n=n, only=chosen).unit_rows(), len(measured)))
    (pool_rows, total), (domain_rows, _) = read
    return _Features(domain_rows, pool_rows, total, 0)
