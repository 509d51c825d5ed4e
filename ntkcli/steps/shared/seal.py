"""The seal of a run: `adapters/<run>/ntksel.json`, written last, with the digests of the adapter's files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import store
from ntkcli.identity import BASE_RECORD

FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What makes an adapter."""
OPTIMIZER = "optimizer.safetensors"
"""The optimiser's moments, where `ntksel finetune --keep-optimizer` kept them: sealed like the rest."""
_UNSIGNED = {"made_by", "model", "run", "spec", "files"}
"""What a seal says that was made before seals held a digest of themselves."""


def read(folder: Path) -> dict[str, Any] | None:
    """The seal in an adapter's folder; None if there is none, or none that can be read."""
    try:
        said = json.loads((folder / BASE_RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def sealing(record: dict[str, Any]) -> bytes:
    """The seal that says `record`, with a digest of it."""
    said = {**record, "digest": store.fingerprint(record)}
    return json.dumps(said, indent=2, sort_keys=True).encode() + b"\n"


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each of the adapter's files as 32 hex digits, read whole."""
    found = {}
    for name in [*FILES, OPTIMIZER] if (folder / OPTIMIZER).is_file() else FILES:
        with (folder / name).open("rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()[:32]
    return found


def stands(folder: Path, fingerprint: str) -> bool:
    """Whether the adapter is sealed for the run of this fingerprint and its files are there (not: unaltered)."""
    said = read(folder)
    return said is not None and said.get("run") == fingerprint and not _missing(folder, said)


def damage(folder: Path, run: store.Artefact) -> str | None:
    """What is wrong with the adapter of a finished run; None if nothing is. (Seals of old name no digests.)"""
    said = read(folder)
    if said is None:
        return f"{folder / BASE_RECORD}, its seal, is missing or can't be read"
    if why := _altered(said, run.fingerprint):
        return f"{folder / BASE_RECORD} {why}"
    if missing := _missing(folder, said):
        return f"{folder / missing[0]} is missing"
    sealed = said.get("files", {})
    for name, found in digests(folder).items():
        if sealed.get(name, found) != found:
            return f"{folder / name} has the digest {found}, its seal says {sealed[name]}"
    return None


def _missing(folder: Path, said: dict[str, Any]) -> list[str]:
    """Files of the adapter, and others that its seal names, that are not there."""
    return [name for name in dict.fromkeys([*FILES, *said.get("files", {})]) if not (folder / name).is_file()]


def _altered(said: dict[str, Any], run: str) -> str | None:
    """What is wrong with what the seal says, for the run of this fingerprint."""
    if said.get("run") != run:
        return f"seals another run ({said.get('run')}, not {run})"
    record = {key: value for key, value in said.items() if key != "digest"}
    if "digest" in said:
        return None if said["digest"] == store.fingerprint(record) else "and its own digest disagree"
    others = sorted(record.keys() - _UNSIGNED)
    return f"says {others[0]!r}, which no seal does" if others else None
