"""Features of a part of rows, whatever their kind: batches under a token budget, halved when memory runs out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntkcli.data.encoding import Encoded
from ntkcli.engine.features.embeddings import EmbeddingEngine
from ntkcli.engine.features.row_losses import LossMeter
from ntkcli.engine.gradients.adam import load_moments
from ntkcli.engine.gradients.probes import AnyProbe, LogitProbe, LossProbe, with_room
from ntkcli.engine.gradients.projections import make_projection
from ntkcli.engine.gradients.row_gradients import GradientEngine
from ntkcli.engine.memory import DoesNotFitError, Footprint, TokenBudget, measured_tokens, run_batches
from ntkcli.engine.models.adapters import AdaptedLayer, apply_adapter, fresh_adapter, load_adapter, only_layers
from ntkcli.engine.models.footprint import counted_tokens, feature_footprint, forward_footprint
from ntkcli.engine.models.loading import LoadedModel
from ntkcli.engine.models.lockstep import Lockstep
from ntkcli.engine.models.switch import AdapterSwitch, BareModel
from ntkcli.engine.rope import LengthClasses, length_classes
from ntkcli.engine.transfers import Outbox, Parcel
from ntkcli.identity import AdapterIdentity, ModelIdentity

_TRIAL_ROW = 256
"""Tokens of a row of the trial batch."""


@dataclass(frozen=True, slots=True)
class GradientSettings:
    """What a gradient feature is made of, in the words of `ntksel featurize`."""

    kind: str
    positions: str
    probe: str
    probes: int
    projection: str
    dim: int
    seed: int
    layers: str
    rank: int
    target_modules: str
    adapter_seed: int
    moments: Path | None = None
    """The warm-up optimiser's, for Adam's directions instead of gradients (`engine.gradients.adam`)."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """`unit` (n, dim) float32 and `norm` (n,) float32, rows as they were given.

    `non_finite`: the rows whose values are not finite (never clamped) → the layer where it began, or "". `losses` by
    name (n,) float32, where they are measured (`row_losses`).
    """

    unit: NDArray[np.float32]
    norm: NDArray[np.float32]
    non_finite: dict[int, str]
    losses: dict[str, NDArray[np.float32]] = field(default_factory=dict)


_Result = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""Of a batch: unit vectors (B, dim), norms (B,), for gradients each layer's norms (B, L), and losses (B, names)."""
_MOST_IN_FLIGHT = 8
"""Batches whose results are not read yet: more would only hold memory."""


@dataclass(slots=True)
class Begun:
    """Rows whose batches the device was given; `left` of the batches have not been read yet."""

    rows: Sequence[Encoded]
    found: Vectors
    padded: set[int]
    left: int = 0


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A batch of `begun`: its rows `where` there, the tokens that it counts, and its results on their way."""

    begun: Begun
    where: NDArray[np.int64]
    tokens: int
    parcel: Parcel


class Extractor:
    """Turns parts of encoded rows into vectors of `dim` numbers under a budget of tokens a batch.

    A batch is read after the next one has been handed to the device, also when that is of another part, so that the
    device always has work: `begin` a part before the one before it is finished (`finish`). Batches that don't fill the
    budget are over sooner: as many stay unread as make a full one. On a CPU every batch is read at once.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Encoded]], _Result],
        *,
        dim: int,
        layer_names: Sequence[str],
        budget: TokenBudget,
        device: torch.device,
        classes: LengthClasses | None = None,
        loss_names: Sequence[str] = (),
        lockstep: Lockstep | None = None,
    ) -> None:
        self._lockstep = lockstep or Lockstep()
        self._classes, self.loss_names = classes, tuple(loss_names)
        self._compute, self.dim, self._layer_names = compute, dim, list(layer_names)
        self.budget = budget
        self._outbox = Outbox(device)
        self._in_flight: deque[_InFlight] = deque()

    def vectors(self, rows: Sequence[Encoded], *, on_batch: Callable[[int, int], None]) -> Vectors:
        """The rows' vectors. `on_batch` is told rows and tokens as batches are handed to the device.

        Raises:
            DoesNotFitError: a row does not fit in memory; `row` is its place in `rows`.
        """
        return self.finish(self.begin(rows, on_batch=on_batch))

    def begin(self, rows: Sequence[Encoded], *, on_batch: Callable[[int, int], None]) -> Begun:
        """Hand the rows' batches to the device, and read what else has arrived; arguments and errors of `vectors`."""
        n = len(rows)
        losses = {name: np.empty(n, dtype=np.float32) for name in self.loss_names}
        found = Vectors(np.empty((n, self.dim), dtype=np.float32), np.empty(n, dtype=np.float32), {}, losses)
        begun = Begun(rows, found, set())
        self._run(begun, np.arange(n), on_batch)
        return begun

    def finish(self, begun: Begun) -> Vectors:
        """The vectors of rows that were begun; waits for their batches alone."""
        self._read_all_of(begun)
        for i in begun.padded & begun.found.non_finite.keys():  # padding may be to blame: no row is left out for it
            del begun.found.non_finite[i]
            self._run(begun, np.array([i]), lambda *_: None)
            self._read_all_of(begun)
        return begun.found

    def end(self) -> None:
        """Called when all is read: processes that share the model may still need this one to compute."""
        self._lockstep.finish(lambda: self._compute([smallest_row()]))

    def _run(self, begun: Begun, chosen: NDArray[np.int64], on_batch: Callable[[int, int], None]) -> None:
        """Hand the `chosen` rows to the device, batch by batch."""
        lengths = [len(begun.rows[i]) for i in chosen]

        def compute(where: NDArray[np.int64]) -> None:
            try:
                with self._lockstep.turn():
                    results = self._checked(self._compute([begun.rows[i] for i in chosen[where]]))
                parcel = self._outbox.send(results)
            except (RuntimeError, MemoryError):
                self._read(keep=0)  # if memory ran out: what was sent takes some
                raise
            longest = lengths[where[0]]
            tokens = self.budget.row(longest) * len(where)
            self._in_flight.append(_InFlight(begun, chosen[where], tokens, parcel))
            begun.left += 1
            self._read_arrived()
            begun.padded.update(int(chosen[i]) for i in where if lengths[i] < longest)
            on_batch(len(where), sum(lengths[i] for i in where))

        try:
            run_batches(lengths, self.budget, compute, self._classes)
        except DoesNotFitError as error:
            raise DoesNotFitError(int(chosen[error.row]), error.tokens) from error

    def _checked(self, result: _Result) -> list[Tensor]:
        """What is sent of a result: the unit vectors, (B,) norms, (B,) int32 marks, and losses where there are some.

        A row's mark: 0 if all of its values are finite; else 1 + the layer where that ended, or with the number of all
        layers where none shows it. Backward runs down, so it is the last of the layers that are not finite.
        """
        unit_Bp, norm_B, layers_BL, losses = result
        witness_B = norm_B + unit_Bp.sum(dim=1)
        if losses is not None:
            witness_B = witness_B + losses.sum(dim=1)
        count = len(self._layer_names)
        if layers_BL is None:
            place_B = torch.full_like(witness_B, 1, dtype=torch.int32)
        else:
            numbers_L = torch.arange(1, count + 1, device=layers_BL.device, dtype=torch.int32)
            last_B = torch.where(torch.isfinite(layers_BL), 0, numbers_L).amax(dim=1)
            place_B = torch.where(last_B > 0, last_B, count + 1)
        marks_B = torch.where(torch.isfinite(witness_B), 0, place_B).to(torch.int32)
        return [unit_Bp, norm_B, marks_B, *([] if losses is None else [losses])]

    def _read_arrived(self) -> None:
        """Read the oldest batches, but for as many of the newest as make a full one."""
        if not self._outbox.waits:
            return self._read(keep=0)
        keep, tokens = 0, 0
        for batch in reversed(self._in_flight):
            if tokens >= self.budget.tokens or keep == _MOST_IN_FLIGHT:
                break
            keep, tokens = keep + 1, tokens + batch.tokens
        return self._read(keep=keep)

    def _read_all_of(self, begun: Begun) -> None:
        while begun.left:
            self._read(keep=len(self._in_flight) - 1)

    def _read(self, *, keep: int) -> None:
        """Read the oldest batches until so many are left."""
        while len(self._in_flight) > keep:
            batch = self._in_flight[0]  # taken off only then: an error here must not lose it
            found, where = batch.begun.found, batch.where
            unit, norm, marks, *losses = batch.parcel.take()
            found.unit[where], found.norm[where] = unit, norm
            for columns in losses:
                for i, name in enumerate(self.loss_names):
                    found.losses[name][where] = columns[:, i]
            for b in np.flatnonzero(marks).tolist():
                found.non_finite[int(where[b])] = [*self._layer_names, ""][marks[b] - 1]
            self._in_flight.popleft()
            batch.begun.left -= 1


def gradient_extractor(
    loaded: LoadedModel,
    *,
    model: ModelIdentity,
    adapter: AdapterIdentity | None,
    settings: GradientSettings,
    batch_tokens: int | None,
    losses: bool = False,
) -> Extractor:
    """Projected gradients with respect to the given adapter, or a fresh one; with `losses` those of the rows too."""
    bare = BareModel.of(loaded) if losses and adapter is not None else None
    every = every_adapted_layer(loaded, model=model, adapter=adapter, settings=settings)
    meter = _meter(loaded, bare, every, adapter) if losses else None
    layers = only_layers(every, settings.layers)
    engine, positions = gradient_engine(loaded, layers, settings, watch=meter.watch if meter else None)

    def compute(rows: Sequence[Encoded]) -> _Result:
        found = engine.features(rows, positions=positions)
        return found.sketch, found.norm, found.layer_norms, meter.take(rows) if meter else None

    budget = token_budget(
        loaded, gradient_footprint(loaded, layers, engine.dim), batch_tokens, trial=partial(_try, loaded, compute)
    )
    return Extractor(
        compute,
        dim=engine.dim,
        layer_names=engine.layer_names,
        budget=budget,
        device=loaded.device,
        lockstep=loaded.lockstep,
        classes=length_classes(loaded.model.config),
        loss_names=meter.names if meter else (),
    )


def gradient_engine(
    loaded: LoadedModel,
    layers: Sequence[AdaptedLayer],
    settings: GradientSettings,
    *,
    watch: Callable[[Tensor, Sequence[Encoded]], None] | None = None,
) -> tuple[GradientEngine, str]:
    """What computes the gradients of these settings, and the positions that it is to be asked for."""
    moments = None if settings.moments is None else load_moments(settings.moments, layers, loaded.device)
    engine = GradientEngine(
        loaded,
        layers,
        projection=make_projection(settings.projection, dim=settings.dim, seed=settings.seed, device=loaded.device),
        probes=make_probes(loaded, settings),
        seed=settings.seed,
        moments=moments,
        watch=watch,
    )
    return engine, "targets" if settings.kind == "loss" else settings.positions


def adapted_layers(
    loaded: LoadedModel, *, model: ModelIdentity, adapter: AdapterIdentity | None, settings: GradientSettings
) -> list[AdaptedLayer]:
    """The adapter's layers, merged into the model, restricted to `settings.layers`."""
    found = every_adapted_layer(loaded, model=model, adapter=adapter, settings=settings)
    return only_layers(found, settings.layers)


def every_adapted_layer(
    loaded: LoadedModel, *, model: ModelIdentity, adapter: AdapterIdentity | None, settings: GradientSettings
) -> list[AdaptedLayer]:
    """The adapter's layers, or a fresh one's, merged into the model; whatever `settings.layers` says."""
    if adapter is not None:
        return load_adapter(loaded, adapter, model)
    return fresh_adapter(
        loaded.model, rank=settings.rank, target_modules=settings.target_modules, seed=settings.adapter_seed
    )


def _meter(
    loaded: LoadedModel, bare: BareModel | None, layers: Sequence[AdaptedLayer], adapter: AdapterIdentity | None
) -> LossMeter:
    """What measures losses; without an adapter there is none before."""
    if bare is None or adapter is None:
        return LossMeter(loaded, None)
    return LossMeter(loaded, AdapterSwitch(loaded, bare, layers, adapter))


def make_probes(loaded: LoadedModel, settings: GradientSettings) -> list[AnyProbe]:
    """The loss, or the K directions of the probe."""
    if settings.kind == "loss":
        return [with_room(LossProbe(loaded.model), loaded.dtype)]
    probes = [LogitProbe(loaded.model, settings.probe, seed=settings.seed, number=k) for k in range(settings.probes)]
    return [with_room(probe, loaded.dtype) for probe in probes]


def embedding_extractor(
    loaded: LoadedModel,
    *,
    model: ModelIdentity,
    adapter: AdapterIdentity | None,
    positions: str,
    pooling: str,
    batch_tokens: int | None,
    losses: bool = False,
) -> Extractor:
    """Pooled final hidden states of the model, with the adapter if there is one; with `losses` those of the rows."""
    bare = BareModel.of(loaded) if losses and adapter is not None else None
    merged = [] if adapter is None else apply_adapter(loaded, adapter, model)
    meter = _meter(loaded, bare, merged, adapter) if losses else None
    engine = EmbeddingEngine(loaded, pooling=pooling, watch=meter.watch if meter else None)

    def compute(rows: Sequence[Encoded]) -> _Result:
        return *engine.features(rows, positions=positions), None, meter.take(rows) if meter else None

    dim = int(loaded.model.config.get_text_config().hidden_size)
    footprint = forward_footprint(loaded.model.config, loaded.dtype)
    budget = token_budget(loaded, footprint, batch_tokens, trial=partial(_try, loaded, compute))
    classes = length_classes(loaded.model.config)
    names = meter.names if meter else ()
    return Extractor(
        compute,
        dim=dim,
        layer_names=[],
        budget=budget,
        device=loaded.device,
        lockstep=loaded.lockstep,
        classes=classes,
        loss_names=names,
    )


def gradient_footprint(loaded: LoadedModel, layers: Sequence[AdaptedLayer], dim: int) -> Footprint:
    """What batches of per-row gradients with respect to these layers hold."""
    factors = [(len(layer.a), layer.shape[1], layer.shape[0]) for layer in layers]
    return feature_footprint(loaded.model.config, loaded.dtype, factors=factors, dim=dim)


def token_budget(
    loaded: LoadedModel,
    footprint: Footprint,
    batch_tokens: int | None,
    *,
    trial: Callable[[TokenBudget, int], int] | None = None,
) -> TokenBudget:
    """How much is computed at a time: `batch_tokens` if given; on CUDA counted, and measured by a `trial` batch."""
    on_cuda = loaded.device.type == "cuda"
    budget = TokenBudget(batch_tokens or counted_tokens(footprint, loaded.device), footprint if on_cuda else None)
    if on_cuda and batch_tokens is None and trial is not None and loaded.lockstep.alone:
        budget.tokens = measured_tokens(budget, loaded.device, partial(trial, budget))
    return budget


def smallest_row() -> Encoded:
    """A row of the first two tokens, one of them supervised: for a process that only keeps step."""
    return Encoded(np.arange(2, dtype=np.int32), np.array([False, True]), truncated=False)


def _try(loaded: LoadedModel, compute: Callable[[Sequence[Encoded]], _Result], budget: TokenBudget, tokens: int) -> int:
    """Compute made rows of about so many tokens as the budget counts them; returns how many they are."""
    row = np.full(_TRIAL_ROW, loaded.tokenizer.pad_token_id or 0, dtype=np.int32)
    counted = budget.row(_TRIAL_ROW)
    rows = max(1, tokens // counted)
    compute([Encoded(row, np.arange(_TRIAL_ROW) > 0, truncated=False)] * rows)
    return rows * counted
