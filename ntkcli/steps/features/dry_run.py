"""What `featurize` would take: the same arguments, nothing written, no weights loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import Kind, OnError, Projection
from ntkcli.data import DataFile, scan
from ntkcli.data.raw_text import refuse_other_schema
from ntkcli.data.stdin import readable
from ntkcli.doors import refuse_missing
from ntkcli.errors import UsageError
from ntkcli.identity import ModelIdentity, resolve_adapter
from ntkcli.steps.features.adam_moments import adam_state
from ntkcli.steps.features.arrays import feature_arrays, loss_arrays, row_bytes
from ntkcli.steps.features.request import FeatureRequest
from ntkcli.steps.shared.cost import Estimate, estimate, hidden_size
from ntkcli.steps.shared.datasets import read_as_known
from ntkcli.steps.shared.growth import grew_from
from ntkcli.steps.shared.row_sets import rows_in_order, selected_rows
from ntkcli.steps.shared.settings import ModelUse
from ntkcli.steps.shared.stores import is_store, open_store
from ntkcli.steps.shared.token_counts import Counts, counts_of, find_counts


def estimate_featurize(store_path: str | Path, request: FeatureRequest) -> Estimate:
    """What `featurize` would take for the rows that the store has no features of yet.

    Tokens are exact where the store has counted them. Other shards' rows are counted in.

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
        now = _status(known if alike else None, file, how.on_error)
        chosen, selection = _chosen(stored, known, request.rows)
        n = now.n if chosen is None else len(chosen)
        adapters = (Path(store_path) if stored is None else stored.path) / "adapters"
        done = _done(request, identity, begun, now, adapters=adapters, n=n, selection=selection)
        left = np.flatnonzero(~done) if chosen is None else chosen[~done]
        numbers = hidden_size(identity) if settings.kind == Kind.EMBED else settings.dim
        adapted = request.adapter is not None
        kept = loss_arrays(adapter=adapted) if settings.losses else ()
        arrays = feature_arrays("sketch", numbers, settings.store_dtype, some_rows=chosen is not None, losses=kept)
        return estimate(
            rows_in_order(file, left, now.status),
            n=len(left),
            there=int(done.sum()),
            step=settings.kind,
            model=identity,
            max_length=use.max_length,
            passes=settings.probes if settings.kind == Kind.NTK else 1,
            forwards=1 + (settings.losses and adapted),
            disk_bytes=len(left) * row_bytes(arrays),
            device=use.device,
            dtype=use.dtype if begun is None else begun.spec["dtype"],
            batch_tokens=use.batch_tokens or (None if begun is None else begun.plan["batch_tokens"]),
            **use.counting(),
            counts=_counted(stored, now.same, identity, use, left),
        )


@dataclass(frozen=True, slots=True)
class _Now:
    """The rows of the file: `same` is the store's data set if they are its rows, `first` if that has the first ones."""

    status: NDArray[np.uint8]
    same: store.Artefact | None
    first: store.Artefact | None

    @property
    def n(self) -> int:
        """How many there are."""
        return len(self.status)


def _status(known: store.Artefact | None, file: DataFile, on_error: OnError) -> _Now:
    if known is not None and known.complete and file.state() in known.attrs.get("files", []):
        status: NDArray[np.uint8] = known.read("status")
        if on_error == OnError.SKIP or not (status >= store.RowStatus.UNREADABLE).any():
            return _Now(status, known, known)
    found = scan(file, on_error=on_error, head_rows=-1 if known is None else known.n)
    digest = None if known is None else known.spec["digest"]
    same = known if found.digest == digest else None
    return _Now(found.status, same, known if found.head == digest else None)


def _done(
    request: FeatureRequest,
    model: ModelIdentity,
    begun: store.Artefact | None,
    now: _Now,
    *,
    adapters: Path,
    n: int,
    selection: store.Artefact | None,
) -> NDArray[np.bool_]:
    """Which of the rows (n,) the store has features of already, by the same settings."""
    done = np.zeros(n, dtype=np.bool_)
    dataset = now.same if selection is not None else now.first
    if begun is None or dataset is None:
        return done
    settings, use = request.settings, request.use
    refuse_missing(begun.spec, begun.name)
    adapter = resolve_adapter(request.adapter, adapters=adapters) if request.adapter else None
    spec = settings.spec(use, use.settle_dtype(begun), model, adapter, adam_state(adapter) if request.adam else None)
    spec |= {"data": dataset.spec["digest"], "rows": selection.fingerprint if selection else None}
    if begun.spec != spec and not (
        selection is None and grew_from(dataset, begun) and begun.spec == spec | {"data": begun.spec["data"]}
    ):
        return done
    for part in np.flatnonzero(begun.done()).tolist():
        done[slice(*begun.part_bounds(part))] = True
    return done


def _chosen(
    stored: store.Store | None, known: store.Artefact | None, rows: str | None
) -> tuple[NDArray[np.int64] | None, store.Artefact | None]:
    if rows is None or stored is None:
        return None, None
    if known is None:
        raise UsageError(f"--rows {rows}: the store has no data set of that --name yet.", "Leave the option out.")
    return selected_rows(stored, rows, dataset=known)


def _counted(
    stored: store.Store | None,
    known: store.Artefact | None,
    model: ModelIdentity,
    use: ModelUse,
    rows: NDArray[np.int64],
) -> Counts | None:
    if stored is None or known is None:
        return None
    found = find_counts(stored, known, model, **use.counting())
    return None if found is None else counts_of(found, rows)
