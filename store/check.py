"""Look for damage: every document read, every chunk decoded, every digest compared; and forget what is damaged.

Knows artefacts, not what they mean: what one says about another is for the steps above.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from store import atomic, documents, mend
from store.artefact import Artefact
from store.errors import DamagedError
from store.layout import ARRAYS, NODE_FILE
from store.root import Store


@dataclass(frozen=True, slots=True)
class Finding:
    """One damage: where it is (`rows` [start, stop) of the artefact), `what` it is, the `mend`, and whether it is done.

    `artefact` is "" for what belongs to none. `repaired`: the damaged part is forgotten, or the file is made again.
    """

    artefact: str
    part: int | None
    rows: tuple[int, int] | None
    what: str
    mend: str
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """The damage found, and how many recorded parts, with how many rows, were read whole and found good."""

    findings: tuple[Finding, ...]
    parts: int
    rows: int


def check(store: Store, *, repair: bool = False, on_part: Callable[[int], None] = lambda _: None) -> Checked:
    """Read all that is recorded in `store`. With `repair`, damaged parts are forgotten: not done, to be done again.

    `on_part` is told the rows of each part once it was read. A damaged description of an artefact can't be repaired:
    the finding says so. Safe while others write.
    """
    broken: list[DamagedError] = []
    artefacts = store.artefacts(on_damage=broken.append)
    findings = [Finding(error.artefact, None, None, error.what, error.mend) for error in broken]
    findings += _groups(store, artefacts, repair=repair)
    parts = rows = 0
    for artefact in artefacts:
        try:
            _ = artefact.arrays
        except DamagedError as error:
            findings.append(Finding(artefact.name, None, None, error.what, error.mend))
            continue
        findings += _records(artefact, repair=repair)
        for i in np.flatnonzero(artefact.done()).tolist():
            start, stop = artefact.part_bounds(i)
            found = _part(artefact, i, repair=repair)
            if found is None:
                parts, rows = parts + 1, rows + stop - start
            else:
                findings.append(found)
            on_part(stop - start)
    return Checked(tuple(findings), parts, rows)


def _part(artefact: Artefact, i: int, *, repair: bool) -> Finding | None:
    """What is wrong with the recorded part `i`; forgotten if so and `repair`."""
    try:
        artefact.verify_part(i)
    except DamagedError as error:
        if repair:
            artefact.forget_part(i)
        how = f"run {mend.making(mend.store_of(artefact.path), artefact.name)} again: it redoes this part"
        return Finding(artefact.name, i, error.rows, error.what, how if repair else error.mend, repair)
    return None


def _records(artefact: Artefact, *, repair: bool) -> Iterator[Finding]:
    """Records that vouch for nothing: not four bytes long, or of a part that there is not."""
    for path, why in artefact.stray_records():
        part = int(path.name) if path.name.isdecimal() and int(path.name) < artefact.n_parts else None
        if repair:
            atomic.remove_file(path)
        yield Finding(
            artefact.name,
            part,
            None if part is None else artefact.part_bounds(part),
            f"{artefact.name} is damaged: the record {path} {why}",
            f"run {mend.making(mend.store_of(path), artefact.name)} again"
            if repair
            else f"run {mend.repairing(mend.store_of(path))}, which removes it",
            repair,
        )


def _groups(store: Store, artefacts: list[Artefact], *, repair: bool) -> Iterator[Finding]:
    """The documents of the groups between the root and the artefacts, which plain Zarr needs to find these."""
    root = store.path / ARRAYS
    folders = {parent for artefact in artefacts for parent in artefact.path.parents if parent.is_relative_to(root)}
    for folder in sorted({root, *folders}):
        try:
            documents.read_group(folder, os.path.relpath(folder, store.path))
        except DamagedError as error:
            if repair:
                _remake_group(folder, store)
            how = f"run {mend.repairing(store.path)}, which makes it again"
            yield Finding("", None, None, error.what, "nothing else to do" if repair else how, repair)


def _remake_group(folder: Path, store: Store) -> None:
    atomic.make_folder(folder)
    atomic.write_bytes(folder / NODE_FILE, documents.group_document({}), temp=store.tmp_path)
