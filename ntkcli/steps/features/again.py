"""The extractor that a features artefact was made with, loaded again for other rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import store
from ntkcli.choices import Kind, Pooling, Positions, Projection, StoreDtype, TextAs
from ntkcli.data import Encoder
from ntkcli.errors import SpecError
from ntkcli.identity import AdapterIdentity, resolve_adapter
from ntkcli.steps.features.adam_moments import adam_state
from ntkcli.steps.features.featurize import load_extractor
from ntkcli.steps.features.settings import DEFAULT_POSITIONS, FeatureSettings
from ntkcli.steps.shared.settings import ModelUse

if TYPE_CHECKING:
    from ntkcli.engine.features.extract import Extractor


def load_again(stored: store.Store, features: store.Artefact, *, device: str) -> tuple[Extractor, Encoder]:
    """What gives the same features for the same rows as `features` has.

    Raises:
        SpecError: the model, the adapter or the program has changed since; names what.
        UsageError: the model or the adapter is no longer where it was.
    """
    spec, encoder_spec = features.spec, features.spec["encoder"]
    use = ModelUse(
        model=features.attrs["model"],
        max_length=encoder_spec["max_length"],
        thinking=encoder_spec.get("thinking"),
        text_as=TextAs(encoder_spec.get("text_as", TextAs.CHAT)),
        device=device,
        trust_remote_code="remote_code" in spec["model"],
    )
    model = use.resolve()
    adapter = _adapter(stored, features.attrs["adapter"])
    adam = adam_state(adapter) if "adam" in spec else None
    settings = _settings(spec)
    now = settings.spec(use, spec["dtype"], model, adapter, adam) | {key: spec[key] for key in ("data", "rows")}
    if changed := store.differences(spec, now):
        raise SpecError(
            f"What {features.name} were made with has changed since: " + ", ".join(map(str, changed)) + ".",
            "Restore it, or featurize again under another --feature.",
        )
    extractor, encoder, _ = load_extractor(model, adapter, adam, settings, use, dtype=spec["dtype"], known=features)
    return extractor, encoder


def _adapter(stored: store.Store, reference: str | None) -> AdapterIdentity | None:
    """The adapter that was noted; one of the store also where the store has moved."""
    if reference is None:
        return None
    name = Path(reference).name
    moved = not Path(reference).is_dir() and (stored.path / "adapters" / name).is_dir()
    return resolve_adapter(name if moved else reference, adapters=stored.path / "adapters")


def _settings(spec: dict[str, Any]) -> FeatureSettings:
    """The settings of a spec; those that do not apply to its kind have their defaults."""
    projection = spec.get("projection", {"name": Projection.NONE})
    fresh = (spec["adapter"] or {}).get("fresh", {"rank": 1, "target_modules": "", "seed": 0})
    kind = Kind(spec["kind"])
    return FeatureSettings(
        kind=kind,
        positions=Positions(spec.get("positions", DEFAULT_POSITIONS[kind])),
        pooling=Pooling(spec.get("pooling", Pooling.MEAN)),
        probe=spec.get("probe", "sum"),
        probes=spec.get("probes", 1),
        layers=spec.get("layers", "all"),
        projection=Projection(projection["name"]),
        dim=projection.get("dim", 1),
        seed=projection.get("seed", spec.get("probe_seed", 0)),
        rank=fresh["rank"],
        target_modules=fresh["target_modules"],
        adapter_seed=fresh["seed"],
        store_dtype=StoreDtype(spec["store_dtype"]),
        losses="losses" in spec,
    )
