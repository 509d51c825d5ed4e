"""Features of the rows that were drawn, kept part by part: a diagnosis that was interrupted goes on, one that is
finished loads no model.

They are `diagnoses/<diagnosis>-<digest of all that changes a value>` in the store, so they need no name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import Kind, StoreDtype
from ntkcli.data import Encoded, Row
from ntkcli.identity import AdapterIdentity
from ntkcli.progress import Progress
from ntkcli.steps.diagnosis.request import Request
from ntkcli.steps.diagnosis.sample import Setup, Side
from ntkcli.steps.features.settings import FeatureSettings
from ntkcli.steps.shared.disk_room import refuse_without_room
from ntkcli.steps.shared.environment import begin, model_environment
from ntkcli.steps.shared.fitting import naming
from ntkcli.steps.shared.model_settings import note_conversion
from ntkcli.steps.shared.non_finite import name_of, settle_non_finite
from ntkcli.steps.shared.settings import ModelUse

VERSION = 1
"""Of the diagnoses' values, in every spec: goes up when the same settings would give others."""
PART_ROWS = 64
_DIGITS = 12


def name_for(check: str, spec: dict[str, Any]) -> str:
    """The artefact of a diagnosis with these settings."""
    return f"diagnoses/{check}-{store.fingerprint(spec)[:_DIGITS]}"


def model_use(request: Request, setup: Setup) -> ModelUse:
    """The model as `ntksel featurize` would be asked to use it."""
    return ModelUse(
        model=setup.model.reference,
        max_length=setup.encoder.max_length,
        thinking=request.thinking,
        dtype=request.dtype,
        device=request.device,
        batch_tokens=request.batch_tokens,
        trust_remote_code=request.trust_remote_code,
    )


def feature_settings(request: Request, *, kind: Kind, probe: str = "centred", layers: str = "all") -> FeatureSettings:
    """The settings of features as `ntksel featurize` makes them, with its defaults where there is no option."""
    return FeatureSettings(kind=kind, probe=probe, layers=layers, dim=request.dim, store_dtype=StoreDtype.FLOAT32)


def feature_spec(
    request: Request, setup: Setup, settings: FeatureSettings, adapter: AdapterIdentity | None
) -> dict[str, Any]:
    """What decides the features, but for the rows."""
    use = model_use(request, setup)
    return settings.spec(use, use.settle_dtype(None), setup.model, adapter, None)


@dataclass(frozen=True, slots=True)
class Vectors:
    """Unit features (n, p) float32 of the rows of all sides, one after the other, and norms (n,); NaN: not finite.

    `fingerprint` is of all that decides them.
    """

    unit: NDArray[np.float32]
    norm: NDArray[np.float32]
    fingerprint: str

    @property
    def raw(self) -> NDArray[np.float64]:
        """The features at their own length."""
        found: NDArray[np.float64] = self.unit.astype(np.float64) * self.norm[:, None]
        return found


def vectors(
    stored: store.Store,
    check: str,
    sides: tuple[Side, ...],
    *,
    request: Request,
    setup: Setup,
    adapter: AdapterIdentity | None,
    settings: FeatureSettings,
    progress: Progress,
    announce: Callable[[], object] = lambda: "",
) -> Vectors:
    """Compute the features, or find them done. `announce`: what is noted before the model is loaded.

    Raises:
        NtkselError: a value is not finite and `on_error` is "fail", or a row does not fit in memory; names the row.
    """
    spec = {
        "version": VERSION,
        "diagnosis": check,
        **feature_spec(request, setup, settings, adapter),
        "sides": [side.spec for side in sides],
    }
    name = name_for(check, spec)
    known = stored.find(name)
    rows = [row for side in sides for row in side.rows]
    if known is not None and known.complete:
        return _read(known, rows, request, progress)
    encoded = [one for side in sides for one in side.encoded]
    if said := str(announce()):
        progress.note(said)
    extractor, now = _load(request, setup, adapter, settings, progress)
    artefact = stored.create(
        name,
        kind=store.Kind.DIAGNOSIS,
        spec=spec,
        parents={},
        n=len(rows),
        part_rows=PART_ROWS,
        arrays={"vector": store.ArraySpec("float32", (extractor.dim,)), "norm": store.ArraySpec("float32")},
        attrs={"model": setup.model.reference, "adapter": str(adapter.folder) if adapter else None},
    )
    refuse_without_room(artefact, artefact.pending())
    begin(artefact, now, progress)
    _fill(artefact, rows, encoded, extractor, progress)
    return _read(artefact, rows, request, progress)


def _read(artefact: store.Artefact, rows: list[Row], request: Request, progress: Progress) -> Vectors:
    found = Vectors(artefact.read("vector"), artefact.read("norm"), artefact.fingerprint)
    bad = [rows[i] for i in np.flatnonzero(~np.isfinite(found.norm))]
    settle_non_finite("features", bad, on_error=request.on_error, progress=progress)
    return found


def _load(
    request: Request, setup: Setup, adapter: AdapterIdentity | None, settings: FeatureSettings, progress: Progress
) -> tuple[Any, dict[str, Any]]:
    from ntkcli.engine.features import extract
    from ntkcli.engine.models.loading import load_model

    note_conversion(setup.model, progress)
    dtype, with_head = model_use(request, setup).settle_dtype(None), settings.kind != Kind.EMBED
    loaded = load_model(setup.model, dtype=dtype, device=request.device, with_head=with_head)
    now = model_environment(setup.model, loaded)
    if settings.kind == Kind.EMBED:
        extractor = extract.embedding_extractor(
            loaded, model=setup.model, adapter=adapter, positions=settings.tokens_used, pooling=settings.pooling,
            batch_tokens=request.batch_tokens,
        )  # fmt: skip
    else:
        extractor = extract.gradient_extractor(
            loaded,
            model=setup.model,
            adapter=adapter,
            settings=settings.gradient(None),
            batch_tokens=request.batch_tokens,
        )
    return extractor, now


def _fill(
    artefact: store.Artefact, rows: list[Row], encoded: list[Encoded], extractor: Any, progress: Progress
) -> None:
    progress.start(artefact.name, total=artefact.n, unit="rows", done=artefact.rows_done())
    for part in artefact.pending():
        start, stop = artefact.part_bounds(part)
        with naming([name_of(row) for row in rows[start:stop]]):
            found = extractor.vectors(encoded[start:stop], on_batch=lambda r, t: progress.advance(r, tokens=t))
        bad = sorted(found.non_finite)
        found.norm[bad] = np.nan
        found.unit[bad] = 0.0
        artefact.write_part(part, {"vector": found.unit, "norm": found.norm})
    progress.stop()
