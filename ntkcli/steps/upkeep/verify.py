"""Verify a store: all that is recorded read and compared, adapters with their seals, rows with what they point to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import store
from ntkcli.identity import BASE_RECORD
from ntkcli.paths import home
from ntkcli.progress import Progress, Silent
from ntkcli.steps.shared import commands, seal
from ntkcli.steps.shared.stores import open_store
from store import atomic


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """The damage found, each with its mend; `parts` and `rows` were read whole and are good, `adapters` are unaltered.

    `unfinished` names artefacts with rows that are not done, which is no damage, and how to go on.
    """

    findings: tuple[store.Finding, ...]
    parts: int
    rows: int
    adapters: int
    unfinished: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged, or nothing any more."""
        return all(finding.repaired for finding in self.findings)


def verify(store_path: str | Path, *, repair: bool = False, progress: Progress | None = None) -> VerifyResult:
    """Read every recorded chunk and every adapter of the store and compare with the digests.

    `repair` forgets damaged parts and breaks the seal of damaged adapters, so that the commands that made them redo
    just these; it makes no value. Never imports torch. Memory: one part.
    """
    progress = progress or Silent()
    header = store.repair_header(home(store_path)) if repair else None
    stored = open_store(store_path)
    whole = stored.artefacts(on_damage=lambda _: None)
    progress.start("verify", total=sum(artefact.rows_done() for artefact in whole), unit="rows")
    checked = store.check(stored, repair=repair, on_part=progress.advance)
    progress.stop()
    findings = [store.Finding("", None, None, header.what, "nothing else to do", True)] if header else []
    findings += [replace(finding, mend=commands.worded(finding.mend)) for finding in checked.findings]
    if repair:
        whole = stored.artefacts(on_damage=lambda _: None)
    damaged = {finding.artefact for finding in findings if not (finding.repaired and finding.part is None)}
    good = [artefact for artefact in whole if artefact.name not in damaged and artefact.complete]
    again = (artefact for artefact in whole if artefact.name not in damaged and not artefact.complete)
    unfinished = [_unfinished(stored, artefact) for artefact in again]
    adapters = 0
    for artefact in good:
        if artefact.kind == store.Kind.RUN and not (_folder(stored, artefact) / BASE_RECORD).exists():
            unfinished.append(f"{artefact.name}: its adapter is not sealed; {_again(stored, artefact)}")
        elif artefact.kind == store.Kind.RUN:
            found = _adapter(stored, artefact, repair=repair)
            adapters += found is None
            findings += [found] if found else []
        else:
            findings += _references(stored, artefact)
    return VerifyResult(tuple(findings), checked.parts, checked.rows, adapters, tuple(unfinished))


def _adapter(stored: store.Store, run: store.Artefact, *, repair: bool) -> store.Finding | None:
    """What is wrong with the adapter of a finished run. Without its seal the run counts as unfinished."""
    folder = _folder(stored, run)
    why = seal.damage(folder, run)
    if why is None:
        return None
    if repair:
        atomic.remove_file(folder / BASE_RECORD)
    how = f"{_again(stored, run)}: it goes on from its last checkpoint"
    if not repair:
        how = f"run {commands.repairing(stored.path)}, which breaks its seal, and then {how}"
    return store.Finding(run.name, None, None, f"the adapter of {run.name} is damaged: {why}", how, repair)


def _references(stored: store.Store, artefact: store.Artefact) -> Iterator[store.Finding]:
    """Rows of a finished artefact that its data set does not have, or too few or too many of them."""
    dataset = _dataset_of(stored, artefact)
    if dataset is None:
        return
    why = ""
    if "row" in artefact.arrays:
        rows = artefact.read("row")
        if len(np.unique(rows)) < len(rows):
            why = "a row stands in it twice"
        elif len(rows) and not (rows.min() >= 0 and rows.max() < dataset.n):
            why = f"it has row {rows.max() if rows.min() >= 0 else rows.min()} of a data set of {dataset.n}"
    elif artefact.n != dataset.n:
        why = f"it has {artefact.n} rows and its data set {dataset.n}"
    if why:
        how = f"run {commands.removing(stored.path, artefact.name)} and then {_again(stored, artefact)}"
        yield store.Finding(artefact.name, None, None, f"{artefact.name} does not fit {dataset.name}: {why}", how)


def _dataset_of(stored: store.Store, artefact: store.Artefact) -> store.Artefact | None:
    """The data set whose rows an artefact's rows are; None if there is none, or another one by now."""
    if artefact.kind not in (store.Kind.FEATURES, store.Kind.SCORE, store.Kind.SELECTION):
        return None
    try:
        stored.check_parents(artefact)
        features = artefact.kind == store.Kind.FEATURES
        return stored.find(f"datasets/{artefact.name.split('/')[1] if features else artefact.attrs['data']}")
    except (store.DamagedError, store.SpecDiffersError):
        return None  # told elsewhere


def _unfinished(stored: store.Store, artefact: store.Artefact) -> str:
    missing = np.flatnonzero(~artefact.done()).tolist()
    rows = store.say_rows(store.row_ranges(missing, artefact.n, artefact.part_rows))
    return f"{artefact.name}: {rows} of {artefact.n} are not done; {_again(stored, artefact)}"


def _folder(stored: store.Store, run: store.Artefact) -> Path:
    return stored.adapter_path(run.name.partition("/")[2])


def _again(stored: store.Store, artefact: store.Artefact) -> str:
    return f"run {commands.making(stored.path, artefact.name)} again"
