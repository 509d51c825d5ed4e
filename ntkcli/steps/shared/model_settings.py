"""What steps with a model have in common: the encoder's spec, the run behind an adapter, the compute dtype."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import store
from ntkcli.choices import Dtype, checked
from ntkcli.data import Encoder
from ntkcli.data.encoding import VERSION as ENCODER_VERSION
from ntkcli.data.raw_text import CHAT, check_text_as
from ntkcli.identity import AdapterIdentity, ModelIdentity, converted_folder, is_converted, resolve_adapter
from ntkcli.progress import Progress
from ntkcli.steps.shared.stores import require_current


def encoder_spec(max_length: int, thinking: bool | None = None, text_as: str = CHAT) -> dict[str, Any]:
    """What can change a row's tokens beside the tokenizer itself, whose digest stands with the model's.

    UsageError if `text_as` is not known, or both it and `thinking` are given.
    """
    check_text_as(text_as, thinking)
    spec: dict[str, Any] = {"version": ENCODER_VERSION, "max_length": max_length}
    if thinking is not None:
        spec["thinking"] = thinking
    if text_as != CHAT:
        spec["text_as"] = text_as
    return spec


def make_encoder(tokenizer: Any, spec: Mapping[str, Any]) -> Encoder:
    """The encoder of a spec that `encoder_spec` made."""
    return Encoder(
        tokenizer,
        max_length=spec["max_length"],
        thinking=spec.get("thinking"),
        text_as=spec.get("text_as", CHAT),
    )


def count_settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What of an encoder's spec changes how long whole rows are: arguments of `ntkcli.steps.shared.token_counts`."""
    return {"thinking": spec.get("thinking"), "text_as": spec.get("text_as", CHAT)}


def run_parent(stored: store.Store, reference: str | None) -> dict[str, str]:
    """The run of the store that an adapter's reference names, as a parent; nothing for a folder or None.

    store.SpecDiffersError if what the run was trained on has changed since.
    """
    if reference is None or "/" in reference:
        return {}
    run = stored.find(f"runs/{reference}")
    if run is None:
        return {}
    require_current(stored, run)
    return {run.name: run.fingerprint}


def noted_adapter(stored: store.Store, features: store.Artefact) -> AdapterIdentity | None:
    """The adapter that features were made with; one of the store's own also where the store has moved.

    UsageError if it is gone.
    """
    reference = features.attrs["adapter"]
    if reference is None:
        return None
    place, adapters = Path(reference), stored.path / "adapters"
    if not place.is_dir() and adapters.name in place.parts:
        first = len(place.parts) - place.parts[::-1].index(adapters.name)
        own = adapters.joinpath(*place.parts[first:])  # adapters/<run>, or a checkpoint in it
        reference = str(own) if own.is_dir() else reference
    return resolve_adapter(reference, adapters=adapters)


def note_conversion(identity: ModelIdentity, progress: Progress) -> None:
    """Say so if loading the model will first convert its GGUF file, which takes a while, once."""
    if not identity.gguf:
        return
    folder = converted_folder(identity)
    if folder is not None and not is_converted(folder):
        progress.note(f"converting {identity.gguf}, once; the result is kept in {folder}")


def settle_dtype(dtype: Dtype, device: str, known: store.Artefact | None) -> str:
    """The compute dtype as its name: what was asked for; `auto` goes on as the artefact began, if there is one.

    Only an `auto` that is new asks the device, and so imports torch.
    """
    if dtype == "auto" and known is not None:
        return str(known.spec["dtype"])
    if dtype != Dtype.AUTO:
        return checked(Dtype, dtype, "--dtype")
    from ntkcli.engine.models.devices import pick_device, pick_dtype

    return pick_dtype(dtype, pick_device(device))
