"""Look for damage in the documents of a store, and write them again from what stands elsewhere in it.

An artefact's attributes stand twice (`store.attributes`), and its arrays' documents follow from them; the header has a
copy, too; the groups in between say nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from store import atomic, attributes, documents, header
from store.artefact import Artefact
from store.errors import DamagedError
from store.fix import Fix, giving_up, rewriting
from store.layout import ARRAYS, NODE_FILE, RECORDS
from store.root import Store

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finding:
    """One damage: where it is (`rows` [start, stop) of the artefact), `what` it is, the fix (`mend` is its key in JSON), and if that is done.

    `artefact` is "" for what belongs to none. `repaired`: the damaged part is forgotten, or the file is made again.
    """

    artefact: str
    part: int | None
    rows: tuple[int, int] | None
    what: str
    mend: str | Fix
    repaired: bool = False


def check_documents(store: Store, *, repair: bool) -> tuple[list[Artefact], list[Finding]]:
    """The artefacts that can be read, after `repair`, and what is wrong with documents."""
    findings: list[Finding] = []
    artefacts = []
    for name in store.names():
        if found := _attributes(store, name, repair=repair):
            findings.append(found)
        if found is not None and not found.repaired:
            continue
        artefact = store.get(name)
        broken = list(_arrays(store, artefact, repair=repair))
        findings += broken
        if all(each.repaired for each in broken):
            artefacts.append(artefact if not broken else store.get(name))
    return artefacts, [*findings, *_groups(store, repair=repair), *_header_copy(store, repair=repair)]


def _attributes(store: Store, name: str, *, repair: bool) -> Finding | None:
    """What is wrong with the document of an artefact's group, or else with its copy; one is made from the other."""
    path = store.artefact_path(name)
    own, error = _try(partial(attributes.read, path, name))
    copy, copy_error = _try(partial(attributes.read_copy, path, name))
    good = own or copy
    if own and attributes.DIGEST not in own:
        return None  # made before there were copies
    if own and copy and own["fingerprint"] != copy["fingerprint"]:
        copy_error = documents.damaged(path / documents.COPY, name, "is that of another spec")
    error = error or copy_error
    if error is None:
        return None
    if good is None:
        return replace(_finding(name, error), mend=giving_up(store.path, name))
    if repair:
        attributes.write(path, good, temp=store.tmp_path)
    return replace(_finding(name, error, repaired=repair), mend=_again(store, repair))


def _arrays(store: Store, artefact: Artefact, *, repair: bool) -> Iterator[Finding]:
    """What is wrong with the documents of an artefact's arrays."""
    declared = attributes.declared(artefact.attrs)
    for array in (RECORDS, *artefact.array_names()):
        _, error = _try(partial(artefact.read_document, array))
        if error is None:
            continue
        if declared is None:
            yield replace(_finding(artefact.name, error), mend=giving_up(store.path, artefact.name))
            continue
        if repair:
            made = documents.array_documents(declared, artefact.n, artefact.part_rows)
            _write(store, artefact.path / array, made[array])
        yield replace(_finding(artefact.name, error, repaired=repair), mend=_again(store, repair))


def _groups(store: Store, *, repair: bool) -> Iterator[Finding]:
    """The documents of the root and of the groups down to the artefacts, which plain Zarr needs to find these."""
    root = store.path / ARRAYS
    folders = {parent for name in store.names() for parent in store.artefact_path(name).parents}
    for folder in sorted(each for each in folders if each.is_relative_to(root)):
        _, error = _try(partial(_read_group_between, folder, os.path.relpath(folder, store.path)))
        if error is not None:
            if repair:
                _write(store, folder, documents.group_document({}))
            yield _finding("", error, repaired=repair)


def _read_group_between(folder: Path, name: str) -> None:
    if "artefact" in documents.read_group(folder, name):
        raise documents.damaged(folder / NODE_FILE, name, "is that of an artefact")


def _header_copy(store: Store, *, repair: bool) -> Iterator[Finding]:
    """The copy of the header; a kill may leave a store without one, but none with artefacts."""
    error = header.check_copy(store.path, store.said)
    if error is not None and any(store.names()):
        if repair:
            header.remake_copy(store.path, store.said, temp=store.tmp_path)
        yield _finding("", error, repaired=repair)


def _finding(name: str, error: DamagedError, *, repaired: bool = False) -> Finding:
    return Finding(name, None, None, error.what, "nothing else to do" if repaired else error.fix, repaired)


def _again(store: Store, repaired: bool) -> str | Fix:
    return "nothing else to do" if repaired else rewriting(store.path)


def _write(store: Store, folder: Path, document: bytes) -> None:
    atomic.make_folder(folder)
    atomic.write_bytes(folder / NODE_FILE, document, temp=store.tmp_path)


def _try(read: Callable[[], T]) -> tuple[T | None, DamagedError | None]:
    try:
        return read(), None
    except DamagedError as error:
        return None, error
