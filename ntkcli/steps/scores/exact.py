"""The score `exact`: the features' own settings, but no projection; every other score can be judged by it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

import store
from ntkcli.data import BadRow, Encoded, Encoder, Row, RowError
from ntkcli.errors import SpecError, UsageError
from ntkcli.identity import resolve_adapter, resolve_model
from ntkcli.progress import Progress
from ntkcli.scoring.features import Rows
from ntkcli.steps.shared.datasets import data_file
from ntkcli.steps.shared.row_sets import rows_in_order

if TYPE_CHECKING:
    from ntkcli.engine.features.exact import ExactScorer
    from ntkcli.engine.features.extract import GradientSettings

PART_ROWS = 256
"""Rows of a part: as for the features, what a kill may lose."""


def fill_exact(
    stored: store.Store,
    score: store.Artefact,
    *,
    features: store.Artefact,
    pool: store.Artefact,
    domain: store.Artefact,
    only: Rows | None,
    progress: Progress,
) -> None:
    """Compute the pending parts of the score of data set `pool` against `domain`, as `features` (the pool's) were made.

    The domain's mean gradient is computed anew by each run that finds parts pending.

    Raises:
        SpecError: the model or the adapter is no longer where the features were made from, or has changed.
    """
    scorer, encoder = _load(features)
    wanted = np.ones(pool.n, dtype=np.bool_) if only is None else np.isin(np.arange(pool.n), only)
    pending = score.pending()
    progress.start(score.name, total=domain.n + score.n, unit="rows", done=score.rows_done())
    for rows in _chunks(stored, domain, PART_ROWS):
        scorer.learn([row for row in (_encode(encoder, row) for row in rows) if row is not None])
        progress.advance(len(rows))
    for part, rows in enumerate(_chunks(stored, pool, score.part_rows)):
        if part not in pending:
            continue
        encoded = [_encode(encoder, row) if wanted[row.index] else None for row in rows]
        good = [i for i, row in enumerate(encoded) if row is not None]
        values = np.full(len(rows), np.nan, dtype=np.float32)
        values[good] = scorer.score([row for row in encoded if row is not None])
        score.write_part(part, {"score": values, "similarity": np.full(len(rows), np.nan, dtype=np.float32)})
        progress.advance(len(rows), tokens=sum(len(row) for row in encoded if row is not None))


def _load(features: store.Artefact) -> tuple[ExactScorer, Encoder]:
    from ntkcli.engine.features.exact import ExactScorer
    from ntkcli.engine.models.loading import load_model

    spec = features.spec
    if spec["kind"] == "embed":
        raise UsageError(f"{features.name} are embeddings; exact is a score of gradients.", "Give --feature ntk.")
    model = resolve_model(features.attrs["model"], trust_remote_code="remote_code" in spec["model"])
    reference = features.attrs["adapter"]
    adapter = resolve_adapter(reference, adapters=features.path) if reference else None
    if model.spec != spec["model"] or (adapter is not None and adapter.spec != spec["adapter"]):
        raise SpecError(
            f"What {features.name} were made with has changed since: {model.reference}, adapter {reference}.",
            "Restore it, or featurize again under another --feature.",
        )
    loaded = load_model(model, dtype=spec["dtype"], device="auto")
    scorer = ExactScorer(loaded, model=model, adapter=adapter, settings=_settings(spec))
    written = spec["encoder"]
    return scorer, Encoder(loaded.tokenizer, max_length=written["max_length"], thinking=written.get("thinking"))


def _settings(spec: dict[str, Any]) -> GradientSettings:
    """The engine's settings from a features spec; those that only a projection or a fresh adapter has are neutral."""
    from ntkcli.engine.features.extract import GradientSettings

    fresh = (spec["adapter"] or {}).get("fresh", {"rank": 1, "target_modules": "", "seed": 0})
    return GradientSettings(
        kind=spec["kind"],
        positions=spec["positions"],
        probe=spec.get("probe", "sum"),
        probes=spec.get("probes", 1),
        projection="none",
        dim=1,
        seed=spec.get("probe_seed", 0),
        layers=spec["layers"],
        rank=fresh["rank"],
        target_modules=fresh["target_modules"],
        adapter_seed=fresh["seed"],
    )


def _chunks(stored: store.Store, dataset: store.Artefact, size: int) -> Iterator[list[Row | BadRow]]:
    stream = rows_in_order(data_file(stored, dataset), None, dataset.read("status"))
    while rows := list(islice(stream, size)):
        yield rows


def _encode(encoder: Encoder, row: Row | BadRow) -> Encoded | None:
    if isinstance(row, BadRow):
        return None
    try:
        return encoder.encode(row)
    except RowError:
        return None
