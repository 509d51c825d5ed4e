"""Compute the features of a data set's rows and keep them, part by part, resumable at any instant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.data import DataFile, Encoder
from ntkcli.data.files import OnError
from ntkcli.doors import refuse_missing
from ntkcli.identity import AdapterIdentity, ModelIdentity, resolve_adapter, resolve_model
from ntkcli.progress import Progress, Silent
from ntkcli.seeds import check_seed
from ntkcli.steps.features.adam_moments import adam_state
from ntkcli.steps.features.arrays import default_part_rows, feature_arrays, row_bytes
from ntkcli.steps.features.part_loop import FeatureLoop
from ntkcli.steps.features.settings import DEFAULT_POSITIONS, FeatureSettings, check_choices, check_numbers
from ntkcli.steps.shared.datasets import register_data
from ntkcli.steps.shared.disk_room import refuse_without_room
from ntkcli.steps.shared.environment import begin, model_environment
from ntkcli.steps.shared.model_settings import note_conversion, run_parent, settle_dtype
from ntkcli.steps.shared.row_sets import rows_in_order, selected_rows
from ntkcli.steps.shared.stores import open_store, require_spec
from ntkcli.steps.shared.token_counts import (
    Counts,
    count,
    count_tokens,
    counts_of,
    find_counts,
    refuse_long_rows,
    settle_problems,
)

if TYPE_CHECKING:
    from ntkcli.engine.features.extract import Extractor


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
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    thinking: bool | None = None,
    trust_remote_code: bool = False,
    adam: bool = False,
    progress: Progress | None = None,
) -> FeaturizeResult:
    """Compute `features/<name>/<feature>` for the rows of `data`, or find it finished.

    Without `adapter`, kind ntk takes a fresh one (rank, target_modules, adapter_seed; B = 0) and embed the bare model.
    `rows` names a selection of the same data set. `shard` (i, n): only the parts i, i + n, ... Arrays:
    docs/store-format.md. `adam`, of kind loss: the step that the run's optimiser, kept beside its adapter,
    would take for the row's gradient (LESS). `columns`, `split`: `ntkcli.data.DataFile`; `thinking`:
    `ntkcli.data.Encoder`.

    Raises:
        UsageError, DataError: an option or a row can't be used; with on_error "skip" bad rows are left out, NaN.
        store.SpecDiffersError: the artefact exists and was made with other settings; names each.
    """
    progress = progress or Silent()
    check_choices(
        kind=kind, positions=positions, pooling=pooling, probe=probe, projection=projection, store_dtype=store_dtype
    )
    check_numbers(kind=kind, positions=positions, probe=probe, probes=probes, shard=shard, adam=adam)
    check_seed("--seed", seed)
    check_seed("--adapter-seed", adapter_seed)
    identity = resolve_model(model, trust_remote_code=trust_remote_code)
    stored = open_store(store_path, create=True)
    adapter_identity = resolve_adapter(adapter, adapters=stored.path / "adapters") if adapter else None
    dataset, file = register_data(stored, name=name, data=data, columns=columns, split=split, on_error=on_error)
    progress.note(f"{dataset.name}: {dataset.n} rows of {file.path}, read as {dataset.spec['schema']}")
    parents = {dataset.name: dataset.fingerprint, **run_parent(stored, adapter)}
    chosen, selection = None, None
    if rows is not None:
        chosen, selection = selected_rows(stored, rows, dataset=dataset)
        parents[selection.name] = selection.fingerprint
    artefact_name = f"features/{name}/{store.check_name(feature or kind, '--feature')}"
    known = stored.find(artefact_name)
    if known is not None:
        refuse_missing(known.spec, artefact_name)
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
        thinking=thinking,
        adam=adam_state(adapter_identity) if adam else None,
    )
    spec = settings.spec(identity, adapter_identity)
    spec |= {"data": dataset.spec["digest"], "rows": selection.fingerprint if selection else None}
    if known is not None and known.spec == spec and known.complete:
        progress.note(f"{artefact_name} is finished already: {known.n} rows")
        return _result(known, computed=0, tokens=0)
    if known is not None:
        require_spec(known, spec)
    note_conversion(identity, progress)
    if known is None or chosen is None:  # of a selection they are not kept, and were told when it began
        counts = _settle(stored, dataset, file, identity, chosen, shard, thinking, on_error, progress)
        refuse_long_rows(counts, model=identity, max_length=max_length, file=file, rows=chosen)
    extractor, encoder, now = _load(identity, adapter_identity, settings, device, batch_tokens, known)
    n_rows = dataset.n if chosen is None else len(chosen)
    vectors = "embedding" if kind == "embed" else "sketch"
    arrays = feature_arrays(vectors, extractor.dim, store_dtype, some_rows=chosen is not None)
    if encoder.form:
        progress.note(encoder.form)
    artefact = stored.create(
        artefact_name,
        kind=store.Kind.FEATURES,
        spec=spec,
        parents=parents,
        n=n_rows,
        part_rows=part_rows or default_part_rows(kind, n_rows, row_bytes(arrays)),
        arrays=arrays,
        plan={"batch_tokens": extractor.budget.tokens},
        attrs={"model": identity.reference, "adapter": str(adapter_identity.folder) if adapter_identity else None},
    )
    if batch_tokens is None:
        extractor.budget.tokens = artefact.plan["batch_tokens"]  # another writer may have been first
    pending = artefact.pending(shard)
    refuse_without_room(artefact, pending)
    if pending:
        begin(artefact, now, progress)
    work = FeatureLoop(artefact, file, chosen, dataset.read("status"), encoder, extractor, on_error, progress, vectors)
    planned = extractor.budget.tokens
    computed, tokens = work.run(pending)
    if extractor.budget.tokens < planned:
        progress.note(
            f"memory ran out: batches went from {planned} to {extractor.budget.tokens} tokens; "
            f"--batch-tokens {extractor.budget.tokens} begins there"
        )
    return _result(artefact, computed=computed, tokens=tokens)


def _settle(
    stored: store.Store,
    dataset: store.Artefact,
    file: DataFile,
    model: ModelIdentity,
    chosen: NDArray[np.int64] | None,
    shard: tuple[int, int],
    thinking: bool | None,
    on_error: OnError,
    progress: Progress,
) -> Counts:
    """Count tokens, and settle what becomes of rows that can't be encoded, before the model is loaded."""
    status = dataset.read("status")
    kept = find_counts(stored, dataset, model, thinking=thinking)
    if kept is None and chosen is None:
        kept = count_tokens(stored, dataset, file, model, thinking=thinking, shard=shard, progress=progress)
    if kept is not None:
        counts = counts_of(kept, chosen)
    else:
        counts = count(rows_in_order(file, chosen, status), model, thinking=thinking)
    settle_problems(
        counts,
        file=file,
        rows=chosen,
        status=status,
        model=model,
        thinking=thinking,
        on_error=on_error,
        progress=progress,
    )
    return counts


def _load(
    model: ModelIdentity,
    adapter: AdapterIdentity | None,
    settings: FeatureSettings,
    device: str,
    batch_tokens: int | None,
    known: store.Artefact | None,
) -> tuple[Extractor, Encoder, dict[str, Any]]:
    from ntkcli.engine.features import extract
    from ntkcli.engine.models.loading import load_model

    loaded = load_model(model, dtype=settings.dtype, device=device, with_head=settings.kind != "embed")
    encoder = Encoder(loaded.tokenizer, max_length=settings.max_length, thinking=settings.thinking)
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
        if settings.adam is not None:
            settings.adam.watch.require_unchanged()
    return extractor, encoder, model_environment(model, loaded)


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
