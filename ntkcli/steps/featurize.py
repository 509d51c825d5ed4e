"""Compute the features of a data set's rows and keep them, part by part, resumable at any instant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli import quantisation
from ntkcli.data import BadRow, DataFile, Encoded, Encoder, Row, RowError, scan
from ntkcli.data.files import OnError
from ntkcli.errors import DataError, NtkselError, UsageError
from ntkcli.identity import AdapterIdentity, ModelIdentity, resolve_adapter, resolve_model
from ntkcli.progress import Progress, Silent
from ntkcli.steps.feature_arrays import default_part_rows, feature_arrays, refuse_without_room, row_bytes
from ntkcli.steps.inputs import (
    encoder_spec,
    note_conversion,
    open_store,
    register_data,
    require_spec,
    rows_in_order,
    run_parent,
    selected_rows,
    settle_dtype,
)

if TYPE_CHECKING:
    from ntkcli.engine.extract import Extractor, GradientSettings
    from ntkcli.steps.estimate import Estimate

VERSION = 1
"""Of the features, in every spec: goes up when the engine gives other values for the same settings."""
KINDS = ("ntk", "loss", "embed")
POSITIONS = ("completion", "all", "last")
POOLINGS = ("mean", "weighted", "last")
PROBES = ("sum", "rademacher", "centred")
PROJECTIONS = ("sjlt", "rademacher", "none")
PROJECTION_VERSION = 1
"""Of the projections, in every spec: goes up when the same seed gives other numbers."""
DEFAULT_POSITIONS = {"ntk": "completion", "loss": "completion", "embed": "all"}
"""ntk (docs/method.md): features over the answer find skill and topic. embed: the paper's mean over all tokens."""


@dataclass(frozen=True, slots=True)
class FeaturizeResult:
    """What is in the artefact after the run; `computed` of its rows were computed by it, in `tokens` tokens."""

    artefact: str
    rows: int
    rows_done: int
    computed: int
    tokens: int
    truncated: int
    skipped: int
    complete: bool
    digest: str


@dataclass(frozen=True, slots=True)
class FeatureSettings:
    """All settings of a features artefact that can change a value, as the options name them."""

    kind: str
    max_length: int
    positions: str
    pooling: str
    probe: str
    probes: int
    layers: str
    projection: str
    dim: int
    seed: int
    dtype: str
    rank: int
    target_modules: str
    adapter_seed: int
    store_dtype: str

    def spec(self, model: ModelIdentity, adapter: AdapterIdentity | None) -> dict[str, Any]:
        """The spec without data and rows: what two artefacts must agree in for their features to compare."""
        spec: dict[str, Any] = {
            "kind": self.kind,
            "version": VERSION,
            "model": model.spec,
            "adapter": adapter.spec if adapter else None,
            "encoder": encoder_spec(self.max_length),
            "positions": self.positions,
            "dtype": self.dtype,
            "store_dtype": self.store_dtype,
        }
        if self.kind == "embed":
            return spec | {"pooling": self.pooling}
        if adapter is None:
            fresh = {"rank": self.rank, "target_modules": self.target_modules, "seed": self.adapter_seed}
            spec["adapter"] = {"fresh": fresh}
        if self.kind == "ntk":
            spec |= {"probe": self.probe, "probes": self.probes}
            if self.probe != "sum":
                spec["probe_seed"] = self.seed
        spec |= {"layers": self.layers, "projection": {"name": self.projection, "version": PROJECTION_VERSION}}
        if self.projection != "none":
            spec["projection"] |= {"dim": self.dim, "seed": self.seed}
        return spec

    def gradient(self) -> GradientSettings:
        """The part of the settings that the engine takes, for the kinds ntk and loss."""
        from ntkcli.engine.extract import GradientSettings

        return GradientSettings(**{f.name: getattr(self, f.name) for f in fields(GradientSettings)})


def featurize(
    store_path: str | Path,
    *,
    data: str | Path,
    name: str,
    kind: str,
    model: str,
    adapter: str | None = None,
    feature: str | None = None,
    rows: str | None = None,
    max_length: int = 1024,
    positions: str | None = None,
    pooling: str = "mean",
    probe: str = "sum",
    probes: int = 1,
    layers: str = "all",
    projection: str = "sjlt",
    dim: int = 8192,
    seed: int = 0,
    store_dtype: str = "float16",
    dtype: str = "auto",
    device: str = "auto",
    batch_tokens: int | None = None,
    part_rows: int | None = None,
    shard: tuple[int, int] = (0, 1),
    on_error: OnError = "fail",
    rank: int = 16,
    target_modules: str = "all-linear",
    adapter_seed: int = 0,
    progress: Progress | None = None,
) -> FeaturizeResult:
    """Compute `features/<name>/<feature>` for the rows of `data`, or find it finished.

    Without `adapter`, kind ntk takes a fresh one (rank, target_modules, adapter_seed; B = 0) and embed the bare model.
    `rows` names a selection of the same data set. `shard` (i, n): only the parts i, i + n, ... Arrays:
    docs/store-format.md.

    Raises:
        UsageError, DataError: an option or a row can't be used; with on_error "skip" bad rows are left out, NaN.
        store.SpecDiffersError: the artefact exists and was made with other settings; names each.
    """
    progress = progress or Silent()
    _check_choices(
        kind=kind, positions=positions, pooling=pooling, probe=probe, projection=projection, store_dtype=store_dtype
    )
    _check_numbers(kind=kind, positions=positions, probes=probes, shard=shard)
    identity = resolve_model(model)
    stored = open_store(store_path, create=True)
    adapter_identity = resolve_adapter(adapter, adapters=stored.path / "adapters") if adapter else None
    dataset, file = register_data(stored, name=name, data=data, on_error=on_error)
    parents = {dataset.name: dataset.fingerprint, **run_parent(stored, adapter)}
    chosen, selection = None, None
    if rows is not None:
        chosen, selection = selected_rows(stored, rows, dataset=dataset)
        parents[selection.name] = selection.fingerprint
    artefact_name = f"features/{name}/{store.check_name(feature or kind, '--feature')}"
    known = stored.find(artefact_name)
    settings = FeatureSettings(
        kind=kind,
        max_length=max_length,
        positions=positions or DEFAULT_POSITIONS[kind],
        pooling=pooling,
        probe=probe,
        probes=probes,
        layers=layers,
        projection=projection,
        dim=dim,
        seed=seed,
        dtype=settle_dtype(dtype, device, known),
        rank=rank,
        target_modules=target_modules,
        adapter_seed=adapter_seed,
        store_dtype=store_dtype,
    )
    spec = settings.spec(identity, adapter_identity)
    spec |= {"data": dataset.spec["digest"], "rows": selection.fingerprint if selection else None}
    if known is not None and known.spec == spec and known.complete:
        progress.note(f"{artefact_name} is finished already: {known.n} rows")
        return _result(known, computed=0, tokens=0)
    if known is not None:
        require_spec(known, spec)
    note_conversion(identity, progress)
    extractor, encoder = _load(identity, adapter_identity, settings, device, batch_tokens, known)
    n_rows = dataset.n if chosen is None else len(chosen)
    vectors = "embedding" if kind == "embed" else "sketch"
    arrays = feature_arrays(vectors, extractor.dim, store_dtype, some_rows=chosen is not None)
    artefact = stored.create(
        artefact_name,
        kind=store.Kind.FEATURES,
        spec=spec,
        parents=parents,
        n=n_rows,
        part_rows=part_rows or default_part_rows(kind, n_rows, row_bytes(arrays)),
        arrays=arrays,
        plan={"batch_tokens": extractor.budget_tokens},
        attrs={"model": identity.reference, "adapter": str(adapter_identity.folder) if adapter_identity else None},
    )
    if batch_tokens is None:
        extractor.budget_tokens = artefact.plan["batch_tokens"]  # another writer may have been first
    pending = artefact.pending(shard)
    refuse_without_room(artefact, pending)
    work = _Work(artefact, file, chosen, dataset.read("status"), encoder, extractor, on_error, progress, vectors)
    computed, tokens = work.run(pending)
    return _result(artefact, computed=computed, tokens=tokens)


def estimate_featurize(
    store_path: str | Path,
    *,
    data: str | Path,
    name: str,
    kind: str,
    model: str,
    rows: str | None,
    max_length: int,
    dim: int,
    device: str,
    on_error: OnError,
    probes: int = 1,
    projection: str = "sjlt",
    store_dtype: str = "float16",
) -> Estimate:
    """What `featurize` with these settings would take. Writes nothing and loads no weights."""
    if projection == "none":
        raise UsageError(
            "--dry-run can't tell the size of exact gradients without the model.", "Give --projection sjlt."
        )
    from ntkcli.steps.estimate import estimate, hidden_size

    identity, file = resolve_model(model), DataFile(data)
    scanned = scan(file, on_error=on_error)
    chosen: NDArray[np.int64] | None = None
    if rows is not None:
        stored = open_store(store_path)
        chosen, _ = selected_rows(stored, rows, dataset=stored.get(f"datasets/{store.check_name(name, '--name')}"))
    n = scanned.n if chosen is None else len(chosen)
    numbers = hidden_size(identity) if kind == "embed" else dim
    return estimate(
        rows_in_order(file, chosen, scanned.status),
        n=n,
        step=kind,
        model=identity,
        max_length=max_length,
        passes=probes if kind == "ntk" else 1,
        disk_bytes=n * row_bytes(feature_arrays("sketch", numbers, store_dtype, some_rows=chosen is not None)),
        device=device,
    )


@dataclass(slots=True)
class _Work:
    """The loop over the parts of one artefact: encode the next part and write the last while this one computes."""

    artefact: store.Artefact
    file: DataFile
    chosen: NDArray[np.int64] | None
    row_status: NDArray[np.uint8]
    encoder: Encoder
    extractor: Extractor
    on_error: OnError
    progress: Progress
    vectors: str

    def run(self, pending: Sequence[int]) -> tuple[int, int]:
        """Compute the pending parts; returns the rows and tokens computed."""
        found = self.artefact.rows_done()
        mine = sum(stop - start for start, stop in map(self.artefact.part_bounds, pending))
        self.progress.start(self.artefact.name, total=found + mine, unit="rows", done=found)
        computed = tokens = 0
        with ThreadPoolExecutor(1, "encode") as encoding, ThreadPoolExecutor(1, "write") as writing:
            write: Future[None] | None = None
            parts = self._parts(pending)
            upcoming = encoding.submit(self._next, parts)
            while (part := upcoming.result()) is not None:
                upcoming = encoding.submit(self._next, parts)
                arrays = self._compute(part)
                if write is not None:
                    write.result()
                write = writing.submit(self.artefact.write_part, part.number, arrays)
                computed += len(part.rows)
                tokens += int(arrays["tokens"].sum())
            if write is not None:
                write.result()
        self.progress.stop()
        return computed, tokens

    def _parts(self, pending: Sequence[int]) -> Iterator[tuple[int, list[Row | BadRow]]]:
        """The rows of each pending part, from one pass over the file."""
        stream, position = rows_in_order(self.file, self.chosen, self.row_status), 0
        for number in pending:
            start, stop = self.artefact.part_bounds(number)
            for _ in islice(stream, start - position):
                pass
            rows = list(islice(stream, stop - start))
            if len(rows) != stop - start:
                raise DataError(f"{self.file.path} ends before row {stop}: it changed during the run.", "Restore it.")
            position = stop
            yield number, rows

    def _next(self, parts: Iterator[tuple[int, list[Row | BadRow]]]) -> _Part | None:
        number_rows = next(parts, None)
        if number_rows is None:
            return None
        number, rows = number_rows
        encoded: list[Encoded | None] = []
        status = np.zeros(len(rows), dtype=np.uint8)
        for i, row in enumerate(rows):
            code, tokens = self._encode(row)
            status[i] = code
            encoded.append(tokens)
        return _Part(number, rows, encoded, status)

    def _encode(self, row: Row | BadRow) -> tuple[int, Encoded | None]:
        if isinstance(row, BadRow):
            return row.status, None
        try:
            encoded = self.encoder.encode(row)
        except RowError as error:
            if self.on_error == "fail":
                raise DataError(
                    f"{self.file.path} line {row.line}: {error.reason}.",
                    "Mend the row, or give --on-error skip to leave such rows out.",
                ) from error
            return int(error.status), None
        return int(store.RowStatus.TRUNCATED if encoded.truncated else store.RowStatus.OK), encoded

    @property
    def _held(self) -> dict[str, store.ArraySpec]:
        """The arrays that hold the vectors."""
        names = (self.vectors, quantisation.SCALE)
        return {name: self.artefact.arrays[name] for name in names if name in self.artefact.arrays}

    def _compute(self, part: _Part) -> dict[str, NDArray[Any]]:
        from ntkcli.engine.extract import NonFiniteError

        n = len(part.rows)
        arrays: dict[str, NDArray[Any]] = {
            **{name: _unset(array, n) for name, array in self._held.items()},
            "norm": np.full(n, np.nan, dtype=np.float32),
            "tokens": np.zeros(n, dtype=np.int32),
            "status": part.status,
        }
        if self.chosen is not None:
            start, stop = self.artefact.part_bounds(part.number)
            arrays["row"] = self.chosen[start:stop]
        good = [i for i, row in enumerate(part.encoded) if row is not None]
        rows = [row for row in part.encoded if row is not None]
        self.progress.advance(n - len(good))
        try:
            found = self.extractor.vectors(rows, on_batch=lambda r, t: self.progress.advance(r, tokens=t))
        except NonFiniteError as error:
            row = part.rows[good[error.row]]
            raise NtkselError(
                f"The features of {self.file.path} line {row.line} are not finite"
                + (f"; it began in {error.layer}." if error.layer else "."),
                "Give --dtype float32, or take the row out.",
            ) from error
        for name, values in quantisation.encode(found.unit, self.vectors, self._held[self.vectors].dtype).items():
            arrays[name][good] = values
        arrays["norm"][good] = found.norm
        arrays["tokens"][good] = [len(row) for row in rows]
        return arrays


def _unset(array: store.ArraySpec, n: int) -> NDArray[Any]:
    """Rows that have no features: numbers 0, a scale NaN."""
    return np.zeros((n, *array.tail), array.numpy) if array.tail else np.full(n, np.nan, array.numpy)


@dataclass(frozen=True, slots=True)
class _Part:
    """The rows of one part and their tokens; a row that has none is None, and `status` says why."""

    number: int
    rows: list[Row | BadRow]
    encoded: list[Encoded | None]
    status: NDArray[np.uint8]


def _check_choices(
    *, kind: str, positions: str | None, pooling: str, probe: str, projection: str, store_dtype: str
) -> None:
    for option, value, known in (
        ("--kind", kind, KINDS),
        ("--positions", positions, (None, *POSITIONS)),
        ("--pooling", pooling, POOLINGS),
        ("--probe", probe, PROBES),
        ("--projection", projection, PROJECTIONS),
        ("--store-dtype", store_dtype, quantisation.DTYPES),
    ):
        if value not in known:
            raise UsageError(f"{option} {value} is not known.", f"Give one of: {', '.join(filter(None, known))}.")


def _check_numbers(*, kind: str, positions: str | None, probes: int, shard: tuple[int, int]) -> None:
    if probes < 1:
        raise UsageError(f"--probes {probes} is too few.", "Give 1 or more.")
    if kind == "loss" and positions not in (None, "completion"):
        raise UsageError(f"--positions {positions}: the loss is over the answer's tokens.", "Leave it out.")
    if not 0 <= shard[0] < shard[1]:
        raise UsageError(f"--shard {shard[0]}/{shard[1]} is no shard.", "Give I/N with I from 0 to N-1.")


def _load(
    model: ModelIdentity,
    adapter: AdapterIdentity | None,
    settings: FeatureSettings,
    device: str,
    batch_tokens: int | None,
    known: store.Artefact | None,
) -> tuple[Extractor, Encoder]:
    from ntkcli.engine import extract
    from ntkcli.engine.models import load_model

    loaded = load_model(model, dtype=settings.dtype, device=device)
    encoder = Encoder(loaded.tokenizer, max_length=settings.max_length)
    budget = batch_tokens or (known.plan["batch_tokens"] if known is not None else None)
    if settings.kind == "embed":
        extractor = extract.embedding_extractor(
            loaded,
            model=model,
            adapter=adapter,
            positions=settings.positions,
            pooling=settings.pooling,
            batch_tokens=budget,
        )
    else:
        extractor = extract.gradient_extractor(
            loaded, model=model, adapter=adapter, settings=settings.gradient(), batch_tokens=budget
        )
    return extractor, encoder


def _result(artefact: store.Artefact, *, computed: int, tokens: int) -> FeaturizeResult:
    done = artefact.done()
    status = np.concatenate(
        [artefact.read("status", *artefact.part_bounds(int(i))) for i in np.flatnonzero(done)] or [np.zeros(0)]
    )
    return FeaturizeResult(
        artefact=artefact.name,
        rows=artefact.n,
        rows_done=artefact.rows_done(),
        computed=computed,
        tokens=tokens,
        truncated=int((status == store.RowStatus.TRUNCATED).sum()),
        skipped=int((status >= store.RowStatus.UNREADABLE).sum()),
        complete=artefact.complete,
        digest=artefact.digest(),
    )
