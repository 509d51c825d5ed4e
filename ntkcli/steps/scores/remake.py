"""The model, the adapter and the encoder that features were made with, loaded again; refused if they have changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import store
from ntkcli.choices import Dtype, Kind
from ntkcli.data import Encoder
from ntkcli.data.encoding import VERSION as ENCODER_VERSION
from ntkcli.errors import SpecError, UsageError
from ntkcli.group import ALONE, Group
from ntkcli.identity import AdapterIdentity, ModelIdentity, resolve_model
from ntkcli.steps.features.settings import feature_version
from ntkcli.steps.shared.model_settings import make_encoder, noted_adapter

if TYPE_CHECKING:
    from ntkcli.engine.features.extract import GradientSettings
    from ntkcli.engine.models.loading import LoadedModel


@dataclass(frozen=True, slots=True)
class Remade:
    """What computes features as these were computed. The adapter is not attached yet."""

    model: ModelIdentity
    adapter: AdapterIdentity | None
    loaded: LoadedModel
    encoder: Encoder


def refuse_adam(features: store.Artefact, *, what: str) -> None:
    """UsageError for Adam's steps, which `what` is not of."""
    if "adam" in features.spec:
        raise UsageError(f"{features.name} hold Adam's steps; {what}.", "Featurize without --adam.")


def remake(
    stored: store.Store, features: store.Artefact, *, dtype: str, device: str, processes: Group = ALONE
) -> Remade:
    """Load what `features` were made with; `processes` hold the model together.

    Raises:
        SpecError: rows are encoded, or features computed, in another way today; or model or adapter have changed.
    """
    spec = features.spec
    if spec["encoder"]["version"] != ENCODER_VERSION:
        raise SpecError(
            f"{features.name} are of rows encoded in another way than today (version {spec['encoder']['version']}, now "
            f"{ENCODER_VERSION}).",
            "Featurize again under another --feature.",
        )
    adapted = "fresh" not in (spec["adapter"] or {"fresh": {}})
    half = spec["dtype"] == Dtype.FLOAT16 and spec["kind"] != Kind.EMBED
    if spec["version"] != feature_version(adapted=adapted, layers=spec.get("layers", "all"), half=half):
        raise SpecError(
            f"{features.name} were made by another version of ntksel, whose gradients may be others.",
            "Featurize again under another --feature.",
        )
    model = resolve_model(features.attrs["model"], trust_remote_code="remote_code" in spec["model"])
    adapter = noted_adapter(stored, features)
    if model.spec != spec["model"] or (adapter is not None and adapter.spec != spec["adapter"]):
        raise SpecError(
            f"What {features.name} were made with has changed since: {model.reference}, adapter "
            f"{features.attrs['adapter']}.",
            "Restore it, or featurize again under another --feature.",
        )
    from ntkcli.engine.models.sharding import load_shared

    with_head = spec["kind"] != "embed"
    loaded = load_shared(model, dtype=dtype, device=device, processes=processes, with_head=with_head)
    return Remade(model, adapter, loaded, make_encoder(loaded.tokenizer, spec["encoder"]))


def gradient_settings(spec: dict[str, Any]) -> GradientSettings:
    """The engine's settings from a features spec of gradients; those that only a fresh adapter has are neutral."""
    from ntkcli.engine.features.extract import GradientSettings

    fresh = (spec["adapter"] or {}).get("fresh", {"rank": 1, "target_modules": "", "seed": 0})
    projection = spec["projection"]
    return GradientSettings(
        kind=spec["kind"],
        positions=spec["positions"],
        probe=spec.get("probe", "sum"),
        probes=spec.get("probes", 1),
        projection=projection["name"],
        dim=projection.get("dim", 1),
        seed=projection.get("seed", spec.get("probe_seed", 0)),
        layers=spec["layers"],
        rank=fresh["rank"],
        target_modules=fresh["target_modules"],
        adapter_seed=fresh["seed"],
    )
