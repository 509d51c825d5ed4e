"""Compute the features of a data set's rows and keep them, part by part, resumable at any instant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import Dtype, Kind, OnError, Pooling, Positions, Projection, StoreDtype, TextAs
from ntkcli.data import DataFile, Encoder
from ntkcli.data.raw_text import refuse_other_schema
from ntkcli.doors import refuse_missing
from ntkcli.group import ALONE, Group
from ntkcli.identity import AdapterIdentity, ModelIdentity, resolve_adapter
from ntkcli.kernel_presets import DEFAULT
from ntkcli.progress import Progress, Silent
from ntkcli.steps.features.adam_moments import AdamState, adam_state
from ntkcli.steps.features.arrays import default_part_rows, feature_arrays, row_bytes
from ntkcli.steps.features.part_loop import FeatureLoop
from ntkcli.steps.features.request import FeatureRequest
from ntkcli.steps.features.settings import FeatureSettings
from ntkcli.steps.shared.datasets import register_data
from ntkcli.steps.shared.disk_room import refuse_without_room
from ntkcli.steps.shared.environment import begin, model_environment
from ntkcli.steps.shared.growth import forget_counts, grew_from
from ntkcli.steps.shared.model_settings import note_conversion, run_parent
from ntkcli.steps.shared.release import frees_memory
from ntkcli.steps.shared.row_sets import rows_in_order, selected_rows
from ntkcli.steps.shared.settings import ModelUse
from ntkcli.steps.shared.sharing import end_share, mine
from ntkcli.steps.shared.stores import open_store, require_spec
from ntkcli.steps.shared.token_counts import (
    Counts,
    count,
    count_tokens,
    counts_of,
    find_counts,
    kept_tokens,
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
    store_path: str | Path, *, data: str | Path, name: str, kind: Kind, model: str, adapter: str | None = None,
    feature: str | None = None, rows: str | None = None, max_length: int = 1024, positions: Positions | None = None,
    pooling: Pooling = Pooling.MEAN, probe: str = DEFAULT.probe, probes: int = 1, layers: str = "all",
    projection: Projection = Projection.SJLT, dim: int = 8192, seed: int = 0,
    store_dtype: StoreDtype = StoreDtype.FLOAT16, dtype: Dtype = Dtype.AUTO, device: str = "auto",
    batch_tokens: int | None = None, part_rows: int | None = None, shard: tuple[int, int] = (0, 1),
    on_error: OnError = OnError.FAIL, rank: int = 16, target_modules: str = "all-linear", adapter_seed: int = 0,
    columns: Mapping[str, str] | None = None, split: str | None = None, thinking: bool | None = None,
    text_as: TextAs = TextAs.CHAT, trust_remote_code: bool = False, adam: bool = False, losses: bool = False,
    processes: Group = ALONE, progress: Progress | None = None,
) -> FeaturizeResult:  # fmt: skip
    """Compute `features/<name>/<feature>` for the rows of `data`, or find it finished.

    Without `adapter`, kind ntk takes a fresh one (rank, target_modules, adapter_seed; B = 0) and embed the bare model.
    `rows` names a selection of the same data set. `shard` (i, n): only the parts i, i + n, ... Arrays:
    docs/store-format.md. `adam`, of kind loss: the step that the run's optimiser, kept beside its adapter,
    would take for the row's gradient (LESS). `losses`: keep each row's loss and residual too, and with an adapter its
    loss without it (`ntkcli.engine.features.row_losses`). `columns`, `split`: `ntkcli.data.DataFile`; `thinking`,
    `text_as`: `ntkcli.data.Encoder`. `processes`: those that hold the model together, each with a shard of its own.

    Raises:
        UsageError, DataError: an option or a row can't be used; with on_error "skip" bad rows are left out, NaN.
        store.SpecDiffersError: the artefact exists and was made with other settings; names each.
    """
    given = locals().copy()
    del given["store_path"], given["progress"]
    return make_features(store_path, FeatureRequest.of(**given), progress or Silent())


@frees_memory
def make_features(store_path: str | Path, request: FeatureRequest, progress: Progress) -> FeaturizeResult:
    """Compute the features that the request asks for, or find them finished."""
    request.check()
    settings, use, how = request.settings, request.use, request.reading
    identity = use.resolve()
    stored = open_store(store_path, create=True)
    adapter = resolve_adapter(request.adapter, adapters=stored.path / "adapters") if request.adapter else None
    dataset, file = register_data(
        stored,
        name=request.name,
        data=request.data,
        columns=how.columns,
        split=how.split,
        on_error=how.on_error,
        grow=request.rows is None,
    )
    refuse_other_schema(str(dataset.spec["schema"]), use.text_as, f"--data {request.data}")
    progress.note(f"{dataset.name}: {dataset.n} rows of {file.path}, read as {dataset.spec['schema']}")
    parents = {dataset.name: dataset.fingerprint, **run_parent(stored, request.adapter)}
    chosen, selection = None, None
    if request.rows is not None:
        chosen, selection = selected_rows(stored, request.rows, dataset=dataset)
        parents[selection.name] = selection.fingerprint
    place = f"features/{request.name}/{store.check_name(request.feature or settings.kind, '--feature')}"
    known = stored.find(place)
    if known is not None:
        refuse_missing(known.spec, place)
    adam = adam_state(adapter) if request.adam else None
    dtype = use.settle_dtype(known)
    spec = settings.spec(use, dtype, identity, adapter, adam)
    spec |= {"data": dataset.spec["digest"], "rows": selection.fingerprint if selection else None}
    if known is not None and known.spec == spec and known.complete:
        progress.note(f"{place} is finished already: {known.n} rows")
        return _result(known, computed=0, tokens=0)
    grows = known is not None and chosen is None and grew_from(dataset, known)
    if known is not None:
        require_spec(known, spec | {"data": known.spec["data"]} if grows else spec)
    if known is not None and grows:
        progress.note(f"{place}: {known.n} of {dataset.n} rows are there already; the new ones are computed")
    note_conversion(identity, progress)
    if known is None or chosen is None:  # of a selection they are not kept, and were reported when it began
        counts = _settle(stored, dataset, file, identity, chosen, request, progress)
        refuse_long_rows(counts, model=identity, max_length=use.max_length, file=file, rows=chosen)
    work = _Work(stored, request, dataset, file, chosen, identity, adapter, adam, place, spec, parents, known)
    return work.run(progress)


@dataclass(frozen=True, slots=True)
class _Work:
    """Features that are to be computed, with everything looked up and checked."""

    stored: store.Store
    request: FeatureRequest
    dataset: store.Artefact
    file: DataFile
    chosen: NDArray[np.int64] | None
    identity: ModelIdentity
    adapter: AdapterIdentity | None
    adam: AdamState | None
    place: str
    spec: dict[str, Any]
    parents: dict[str, str]
    known: store.Artefact | None

    def run(self, progress: Progress) -> FeaturizeResult:
        """Load the model and compute the pending parts of this shard."""
        use = self.request.use
        extractor, encoder, now = load_extractor(
            self.identity,
            self.adapter,
            self.adam,
            self.request.settings,
            use,
            dtype=self.spec["dtype"],
            known=self.known,
        )
        if encoder.form:
            progress.note(encoder.form)
        vectors = "embedding" if self.request.settings.kind == Kind.EMBED else "sketch"
        artefact = self._artefact(extractor, vectors)
        if use.batch_tokens is None:
            extractor.budget.tokens = artefact.plan["batch_tokens"]  # another writer may have been first
        pending = mine(artefact, artefact.pending(self.request.shard))
        refuse_without_room(artefact, pending)
        if pending:
            begin(artefact, now, progress)
        status, on_error = self.dataset.read("status"), self.request.reading.on_error
        kept = kept_tokens(self.stored, self.dataset, self.identity, encoder)
        loop = FeatureLoop(artefact, self.file, self.chosen, status, kept, extractor, on_error, progress, vectors)
        planned = extractor.budget.tokens
        computed, tokens = loop.run(pending)
        extractor.end()
        end_share()
        if extractor.budget.tokens < planned:
            progress.note(
                f"memory ran out: batches went from {planned} to {extractor.budget.tokens} tokens; "
                f"give --batch-tokens {extractor.budget.tokens} to start there"
            )
        forget_counts(self.stored, self.dataset)
        return _result(artefact, computed=computed, tokens=tokens)

    def _artefact(self, extractor: Extractor, vectors: str) -> store.Artefact:
        """The features in the store, new or resumed."""
        settings, adapter = self.request.settings, self.adapter
        n = self.dataset.n if self.chosen is None else len(self.chosen)
        arrays = feature_arrays(
            vectors,
            extractor.dim,
            settings.store_dtype,
            some_rows=self.chosen is not None,
            losses=extractor.loss_names,
        )
        part_rows = self.request.part_rows or default_part_rows(settings.kind, n, row_bytes(arrays))
        if self.known is not None and self.known.spec != self.spec:
            self.stored.grow(self.place, spec=self.spec, parents=self.parents, n=n, part_rows=part_rows)
        return self.stored.create(
            self.place,
            kind=store.Kind.FEATURES,
            spec=self.spec,
            parents=self.parents,
            n=n,
            part_rows=part_rows,
            arrays=arrays,
            plan={"batch_tokens": extractor.budget.tokens},
            attrs={"model": self.identity.reference, "adapter": str(adapter.folder) if adapter else None},
        )


def _settle(
    stored: store.Store,
    dataset: store.Artefact,
    file: DataFile,
    model: ModelIdentity,
    chosen: NDArray[np.int64] | None,
    request: FeatureRequest,
    progress: Progress,
) -> Counts:
    """Count tokens, and settle what happens to rows that can't be encoded, before the model is loaded."""
    status, how = dataset.read("status"), request.use.counting()
    kept = find_counts(stored, dataset, model, **how)
    if kept is None and chosen is None:
        kept = count_tokens(stored, dataset, file, model, **how, shard=request.shard, progress=progress)
    some = rows_in_order(file, chosen, status)
    counts = count(some, model, **how) if kept is None else counts_of(kept, chosen)
    settle_problems(
        counts,
        file=file,
        rows=chosen,
        status=status,
        model=model,
        **how,
        on_error=request.reading.on_error,
        progress=progress,
    )
    return counts


def load_extractor(
    model: ModelIdentity, adapter: AdapterIdentity | None, adam: AdamState | None, settings: FeatureSettings,
    use: ModelUse, *, dtype: str, known: store.Artefact | None,
) -> tuple[Extractor, Encoder, dict[str, Any]]:  # fmt: skip
    """What computes features by these settings, what encodes their rows, and the environment; `known` has some."""
    from ntkcli.engine.features import extract
    from ntkcli.engine.models.sharding import load_shared

    with_head = settings.kind != Kind.EMBED or settings.losses
    loaded = load_shared(model, dtype=dtype, device=use.device, processes=use.processes, with_head=with_head)
    encoder = use.encoder(loaded.tokenizer)
    budget = use.batch_tokens or (known.plan["batch_tokens"] if known is not None else None)
    if settings.kind == Kind.EMBED:
        extractor = extract.embedding_extractor(
            loaded,
            model=model,
            adapter=adapter,
            positions=settings.tokens_used,
            pooling=settings.pooling,
            batch_tokens=budget,
            losses=settings.losses,
        )
    else:
        extractor = extract.gradient_extractor(
            loaded,
            model=model,
            adapter=adapter,
            settings=settings.gradient(adam),
            batch_tokens=budget,
            losses=settings.losses,
        )
        if adam is not None:
            adam.watch.require_unchanged()
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
