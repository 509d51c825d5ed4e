"""Look for damage: every document read, every chunk decoded, every digest compared; and forget what is damaged.

Knows artefacts, not what they mean: what one says about another is for the steps above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from store import atomic
from store.artefact import Artefact
from store.check_documents import Finding, check_documents
from store.errors import DamagedError
from store.fix import fix, making, repairing
from store.layout import store_of
from store.root import Store


@dataclass(frozen=True, slots=True)
class Checked:
    """The damage found, and how many recorded parts, with how many rows, were read whole and found good."""

    findings: tuple[Finding, ...]
    parts: int
    rows: int


def check(store: Store, *, repair: bool = False, on_part: Callable[[int], None] = lambda _: None) -> Checked:
    """Read all that is recorded in `store`. With `repair`, documents are written again, and damaged parts forgotten:
    not done, to be done again.

    `on_part` is told the rows of each part once it was read. Safe while others write.
    """
    artefacts, findings = check_documents(store, repair=repair)
    parts = rows = 0
    for artefact in artefacts:
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
        how = fix("run ", making(store_of(artefact.path), artefact.name), " again: it redoes this part")
        return Finding(artefact.name, i, error.rows, error.what, how if repair else error.fix, repair)
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
            fix("run ", making(store_of(path), artefact.name), " again")
            if repair
            else fix("run ", repairing(store_of(path)), ", which removes it"),
            repair,
        )
