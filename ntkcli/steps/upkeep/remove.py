"""Remove artefacts from a store, with the adapters of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import store
from ntkcli.errors import UsageError
from ntkcli.identity import BASE_RECORD
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training.run import alone
from store import atomic

_ALONG = ("tokens/", "diagnoses/")
"""Counts of tokens and diagnoses go with what they were made from: they are made again in passing."""


@dataclass(frozen=True, slots=True)
class RemoveResult:
    """What was removed, the bytes that it took, and what was made from it and stays (with `force`)."""

    removed: tuple[str, ...]
    freed_bytes: int
    dependents: tuple[str, ...]


def remove(store_path: str | Path, artefacts: Sequence[str], *, force: bool = False) -> RemoveResult:
    """Remove artefacts by their path, as `features/pool/ntk`, damaged or not; of a run the adapter as well.

    Refused while others that stay were made from one of them, unless `force`. Each is gone at once and whole; those
    made from others go first. Counts of tokens and diagnoses go with what they were made from.

    Raises:
        store.MissingArtefactError: one of them is not there; then none is removed.
        UsageError: others depend on one of them.
        BusyError: a run is being trained.
    """
    stored = open_store(store_path)
    names = list(dict.fromkeys(name.strip("/") for name in artefacts))
    for name in names:
        stored.require(name)
    names += [
        child for name in names for child in stored.dependents(name) if child.startswith(_ALONG) and child not in names
    ]
    staying = {name: [child for child in stored.dependents(name) if child not in names] for name in names}
    if not force and (needed := {name: children for name, children in staying.items() if children}):
        what = "; ".join(f"{', '.join(children)} came from {name}" for name, children in needed.items())
        raise UsageError(f"Nothing is removed: {what}.", "Remove these as well, or give --force to keep them alone.")
    freed = 0
    for name in _children_first(stored, names):
        freed += _remove(stored, name)
    return RemoveResult(tuple(names), freed, tuple(sorted({child for found in staying.values() for child in found})))


def _children_first(stored: store.Store, names: Sequence[str]) -> list[str]:
    """`names`, each after those that were made from it: a kill in between leaves no child without its parent."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name not in order:
            for child in stored.dependents(name):
                if child in names:
                    visit(child)
            order.append(name)

    for name in names:
        visit(name)
    return order


def _remove(stored: store.Store, name: str) -> int:
    """Remove one artefact; returns the bytes of its files."""
    freed = store.folder_bytes(stored.artefact_path(name))
    kind, _, run = name.partition("/")
    folder = stored.adapter_path(run) if kind == "runs" else None
    if folder is None or not folder.is_dir():
        stored.remove(name)
        return freed
    freed += store.folder_bytes(folder)
    with alone(folder):
        atomic.remove_file(folder / BASE_RECORD)  # a kill from here on leaves an unfinished run
        atomic.withdraw_dir(folder, stored.tmp_path())
        stored.remove(name)
    return freed
