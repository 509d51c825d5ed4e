"""What `featurize` would take: the same arguments, nothing written, no weights loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import Kind, OnError, Projection
from ntkcli.data import DataFile, scan
from ntkcli.data.raw_text import refuse_other_schema
from ntkcli.data.stdin import readable
from ntkcli.errors import UsageError
from ntkcli.identity import ModelIdentity
from ntkcli.steps.features.arrays import feature_arrays, loss_arrays, row_bytes
from ntkcli.steps.features.request import FeatureRequest
from ntkcli.steps.shared.cost import Estimate, estimate, hidden_size
from ntkcli.steps.shared.datasets import read_as_known
from ntkcli.steps.shared.row_sets import rows_in_order, selected_rows
from ntkcli.steps.shared.settings import ModelUse
from ntkcli.steps.shared.stores import is_store, open_store
from ntkcli.steps.shared.token_counts import Counts, counts_of, find_counts


def estimate_featurize(store_path: str | Path, request: FeatureRequest) -> Estimate:
    """What `featurize` would take for this request. Tokens are exact where the store has counted them.

    Raises:
        UsageError: as `featurize`; or projection none, whose size only the model knows.
        DataError: rows can't be used, and `on_error` is "fail".
    """
    settings, use, how = request.settings, request.use, request.reading
    if settings.projection == Projection.NONE:
        raise UsageError(
            "--dry-run can't estimate the size of exact gradients without the model.", "Give --projection sjlt."
        )
    request.check()
    identity = use.resolve()
    stored = open_store(store_path) if is_store(store_path) or request.rows is not None else None
    known = stored.find(f"datasets/{store.check_name(request.name, '--name')}") if stored is not None else None
    place = f"features/{request.name}/{store.check_name(request.feature or settings.kind, '--feature')}"
    begun = stored.find(place) if stored is not None else None
    with readable(str(request.data)) as path:
        file, alike = read_as_known(known, path, columns=how.columns, split=how.split)
        refuse_other_schema(file.schema.name, use.text_as, f"--data {request.data}")
        status, same = _status(known if alike else None, file, how.on_error)
        chosen = _chosen(stored, known, request.rows)
        n = len(status) if chosen is None else len(chosen)
        numbers = hidden_size(identity) if settings.kind == Kind.EMBED else settings.dim
        adapted = request.adapter is not None
        kept = loss_arrays(adapter=adapted) if settings.losses else ()
        arrays = feature_arrays("sketch", numbers, settings.store_dtype, some_rows=chosen is not None, losses=kept)
        return estimate(
            rows_in_order(file, chosen, status),
            n=n,
            step=settings.kind,
            model=identity,
            max_length=use.max_length,
            passes=settings.probes if settings.kind == Kind.NTK else 1,
            forwards=1 + (settings.losses and adapted),
            disk_bytes=n * row_bytes(arrays),
            device=use.device,
            dtype=use.dtype if begun is None else begun.spec["dtype"],
            batch_tokens=use.batch_tokens or (None if begun is None else begun.plan["batch_tokens"]),
            **use.counting(),
            counts=_counted(stored, known if same else None, identity, use, chosen),
        )


def _status(known: store.Artefact | None, file: DataFile, on_error: OnError) -> tuple[NDArray[np.uint8], bool]:
    """The status of each row, and whether they are those of the data set that the store has under the name."""
    if known is not None and known.complete and file.state() in known.attrs.get("files", []):
        status: NDArray[np.uint8] = known.read("status")
        if on_error == OnError.SKIP or not (status >= store.RowStatus.UNREADABLE).any():
            return status, True
    found = scan(file, on_error=on_error)
    return found.status, known is not None and known.spec["digest"] == found.digest


def _chosen(stored: store.Store | None, known: store.Artefact | None, rows: str | None) -> NDArray[np.int64] | None:
    if rows is None or stored is None:
        return None
    if known is None:
        raise UsageError(f"--rows {rows}: the store has no data set of that --name yet.", "Leave the option out.")
    return selected_rows(stored, rows, dataset=known)[0]


def _counted(
    stored: store.Store | None,
    known: store.Artefact | None,
    model: ModelIdentity,
    use: ModelUse,
    chosen: NDArray[np.int64] | None,
) -> Counts | None:
    if stored is None or known is None:
        return None
    found = find_counts(stored, known, model, **use.counting())
    return None if found is None else counts_of(found, chosen)
