"""Under what an artefact was computed: kept with it as an attribute, and compared where it goes on.

Versions, device and kernels change values by float rounding, or not at all; so they are in no spec and refuse nothing.
But part of an artefact computed under one and part under another is said. Every verb goes through `begin`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final

import store
from ntkcli.identity import ModelIdentity
from ntkcli.progress import Progress

if TYPE_CHECKING:
    from ntkcli.engine.models.loading import LoadedModel

ATTRIBUTE: Final = "environments"
"""A list: what an artefact began under, then each other that it went on under."""
ALWAYS: Final = ("ntksel", "numpy", "zarr")
MODEL: Final = ("torch", "transformers", "peft", "tokenizers", "safetensors", "accelerate")
"""Packages that every value of a model passes through."""


def environment(*packages: str, **settings: Any) -> dict[str, Any]:
    """The versions of `packages` and of those that are always used (None: not installed), with other `settings`."""
    return {"versions": {name: _version(name) for name in (*ALWAYS, *packages)}, **settings}


def model_environment(
    identity: ModelIdentity, loaded: LoadedModel, *packages: str, generates: bool = False
) -> dict[str, Any]:
    """The same for what a model computes: also device, attention kernel and, where it `generates`, how it does."""
    from ntkcli.engine.models.environment import device_and_attention, generation_settings

    settings: dict[str, Any] = dict(device_and_attention(loaded))
    if generates:
        settings["generation"] = generation_settings(loaded)
    return environment(*MODEL, *_packages_of(identity), *packages, **settings)


def begin(artefact: store.Artefact, now: Mapping[str, Any], progress: Progress, *, unfinished: bool = False) -> None:
    """Keep `now` with the artefact whose pending parts are computed next; one line if it went so far under another.

    `unfinished`: something of it is done though no part is recorded, or all parts are and something is not.
    """
    kept: list[dict[str, Any]] = list(artefact.attrs.get(ATTRIBUTE, []))
    if kept and not unfinished and not artefact.rows_done():
        kept = []  # nothing of it is left
    if kept and (changed := store.differences(kept[-1], now)):
        said = ", ".join(f"{_name(each.field)} was {_shown(each.old)}, is now {_shown(each.new)}" for each in changed)
        progress.note(f"{artefact.name} continues in another environment than before: {said}")
    if now not in kept:
        artefact.note(**{ATTRIBUTE: [*kept, dict(now)]})


def _packages_of(identity: ModelIdentity) -> tuple[str, ...]:
    """Optional packages that the model's weights pass through: of a GGUF file, of quantised weights."""
    if identity.gguf:
        return ("gguf",)
    config = json.loads((identity.folder / "config.json").read_text(encoding="utf-8"))
    method = str((config.get("quantization_config") or {}).get("quant_method", ""))
    return (method,) if method else ()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _name(field: str) -> str:
    return field.removeprefix("versions.")


def _shown(value: Any) -> str:
    return "not installed" if value is None else "not known" if value is store.ABSENT else str(value)
