"""What of a store is copied elsewhere: finished parts and artefacts, sealed adapters, and rows that only it has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import store
from ntkcli.identity import BASE_RECORD
from ntkcli.steps.remote.manifest import Unit
from ntkcli.steps.shared import seal
from store import transfer

HEADER: Final = "store"
"""The unit of the store's own documents."""
FOLDERS: Final = ("data", "folds")
"""Folders that are copied whole: rows that came by standard input, and the folds of a domain."""
_OF_A_TRAINING: Final = "checkpoints"
"""What of an adapter's folder is of use only to go on with an unfinished training."""


@dataclass(frozen=True, slots=True)
class Contents:
    """Units by name with the paths of their files, records and seals last; and what is left out, with why."""

    units: dict[str, tuple[Unit, tuple[str, ...]]]
    unfinished: dict[str, str]


def contents(stored: store.Store) -> Contents:
    """What there is to copy. DamagedError if an artefact's documents are no good."""
    units: dict[str, tuple[Unit, tuple[str, ...]]] = {}
    unfinished: dict[str, str] = {}
    for artefact in stored.artefacts():
        done = artefact.rows_done()
        if artefact.kind == store.Kind.RUN:
            adapter = stored.adapter_path(artefact.name.partition("/")[2])
            if not artefact.complete or not (adapter / BASE_RECORD).is_file():
                unfinished[artefact.name] = "left out: the training is not finished"
                continue
            if seal.read(adapter) is None:
                unfinished[artefact.name] = f"left out: {adapter / BASE_RECORD} can't be read"
                continue
            name = adapter.relative_to(stored.path).as_posix()
            units[name] = (Unit(artefact.fingerprint, 0, 0), tuple(_adapter_files(stored.path, adapter)))
        elif done < artefact.n:
            unfinished[artefact.name] = f"{done} of {artefact.n} rows"
        files = tuple(path for piece in transfer.pieces(stored, artefact) for path in piece.files)
        units[artefact.name] = (Unit(artefact.fingerprint, artefact.n, done), files)
    units[HEADER] = (Unit(None, 0, 0), tuple(transfer.header_files(stored)))
    for folder in FOLDERS:
        if files := tuple(_files(stored.path, stored.path / folder)):
            units[folder] = (Unit(None, 0, 0), files)
    return Contents(units, unfinished)


def comes_last(path: str) -> bool:
    """Whether a file vouches for others, and so is copied after them: a part's record, an adapter's seal."""
    return transfer.is_record(path) or path.endswith(f"/{BASE_RECORD}")


def _adapter_files(root: Path, adapter: Path) -> Iterator[str]:
    for path in _files(root, adapter):
        inside = path.split("/")[2:]
        if inside[0] != _OF_A_TRAINING:
            yield path


def _files(root: Path, folder: Path) -> Iterator[str]:
    """All files under a folder by their path in the store, hidden ones left out, seals last."""
    found = [path.relative_to(root) for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)]
    yield from sorted(names, key=comes_last)
