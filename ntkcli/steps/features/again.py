"""The extractor that a features artefact was made with, loaded again for other rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import store
from ntkcli.data import Encoder
from ntkcli.data.raw_text import CHAT
from ntkcli.errors import SpecError
from ntkcli.identity import AdapterIdentity, resolve_adapter, resolve_model
from ntkcli.steps.features.adam_moments import adam_state
from ntkcli.steps.features.featurize import load_extractor
from ntkcli.steps.features.settings import DEFAULT_POSITIONS, FeatureSettings

if TYPE_CHECKING:
    from ntkcli.engine.features.extract import Extractor


def load_again(stored: store.Store, features: store.Artefact, *, device: str) -> tuple[Extractor, Encoder]:
    """What gives the same features for the same rows as `features` has.

    Raises:
        SpecError: the model, the adapter or the program has changed since; names what.
        UsageError: the model or the adapter is no longer where it was.
    """
    spec = features.spec
    model = resolve_model(features.attrs["model"], trust_remote_code="remote_code" in spec["model"])
    adapter = _adapter(stored, features.attrs["adapter"])
    settings = _settings(spec, adapter)
    now = settings.spec(model, adapter) | {key: spec[key] for key in ("data", "rows")}
    if changed := store.differences(spec, now):
        raise SpecError(
            f"What {features.name} were made with has changed since: " + ", ".join(map(str, changed)) + ".",
            "Restore it, or featurize again under another --feature.",
        )
    extractor, encoder, _ = load_extractor(model, adapter, settings, device, None, features)
    return extractor, encoder


def _adapter(stored: store.Store, reference: str | None) -> AdapterIdentity | None:
    """The adapter that was noted; one of the store also where the store has moved."""
    if reference is None:
        return None
    name = Path(reference).name
    moved = not Path(reference).is_dir() and (stored.path / "adapters" / name).is_dir()
    return resolve_adapter(name if moved else reference, adapters=stored.path / "adapters")


def _settings(spec: dict[str, Any], adapter: AdapterIdentity | None) -> FeatureSettings:
    """The settings of a spec; those that mean nothing to its kind have their defaults."""
    projection, encoder = spec.get("projection", {"name": "none"}), spec["encoder"]
    fresh = (spec["adapter"] or {}).get("fresh", {"rank": 1, "target_modules": "", "seed": 0})
    return FeatureSettings(
        kind=spec["kind"],
        max_length=encoder["max_length"],
        positions=spec.get("positions", DEFAULT_POSITIONS[spec["kind"]]),
        pooling=spec.get("pooling", "mean"),
        probe=spec.get("probe", "sum"),
        probes=spec.get("probes", 1),
        layers=spec.get("layers", "all"),
        projection=projection["name"],
        dim=projection.get("dim", 1),
        seed=projection.get("seed", spec.get("probe_seed", 0)),
        dtype=spec["dtype"],
        rank=fresh["rank"],
        target_modules=fresh["target_modules"],
        adapter_seed=fresh["seed"],
        store_dtype=spec["store_dtype"],
        thinking=encoder.get("thinking"),
        text_as=encoder.get("text_as", CHAT),
        adam=adam_state(adapter) if "adam" in spec else None,
        losses="losses" in spec,
    )
