"""What is in a store: every artefact, how complete it is, what it was made from and what it costs on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import store
from ntkcli.paths import remote_url
from ntkcli.progress import Progress
from ntkcli.steps.remote.reading import as_shown, reading
from ntkcli.steps.shared.commands import message
from ntkcli.steps.shared.stores import refuse_url
from ntkcli.steps.upkeep.verify import VerifyResult
from ntkcli.steps.upkeep.verify import verify as verify_store


@dataclass(frozen=True, slots=True)
class ArtefactInfo:
    """One artefact: `rows_done` of `rows` are recorded; `stale` says what it was made from has changed since.

    `size_bytes` of a run counts its adapter and checkpoints. `parents` it was made from, of these `removed_parents` are
    gone; `dependents` were made from it.
    """

    name: str
    kind: str
    rows: int
    rows_done: int
    complete: bool
    size_bytes: int
    fingerprint: str
    digest: str
    parents: tuple[str, ...]
    removed_parents: tuple[str, ...]
    dependents: tuple[str, ...]
    stale: str | None


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """A store: its artefacts by name, damaged ones with what is wrong, and the bytes of the whole folder."""

    path: str
    id: str
    made_by: str
    version: int
    artefacts: tuple[ArtefactInfo, ...]
    damaged: tuple[str, ...]
    size_bytes: int
    verified: VerifyResult | None = None

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged, as far as was looked."""
        return not self.damaged if self.verified is None else self.verified.sound


def info(
    store_path: str | Path, *, verify: bool = False, repair: bool = False, progress: Progress | None = None
) -> StoreInfo:
    """Read the store's JSON and records only: fast, whatever its size. Never imports torch.

    `store_path` may be the URL of a pushed store. With `verify` or `repair`, of a folder, first what
    `ntkcli.steps.upkeep.verify` does, which reads everything.
    """
    if (verify or repair) and (url := remote_url(store_path)) is not None:
        refuse_url(url, "info --repair" if repair else "info --verify")
    verified = verify_store(store_path, repair=repair, progress=progress) if verify or repair else None
    with reading(store_path, progress) as stored:
        return _info(stored, store_path, verified)


def _info(stored: store.Store, reference: str | Path, verified: VerifyResult | None) -> StoreInfo:
    damaged: list[str] = []
    found = stored.artefacts(on_damage=lambda error: damaged.append(message(error)))
    there = set(stored.names())
    used_by: dict[str, list[str]] = {}
    for artefact in found:
        for parent in artefact.parents:
            used_by.setdefault(parent, []).append(artefact.name)
    return StoreInfo(
        path=as_shown(str(stored.path), stored, reference),
        id=stored.id,
        made_by=stored.made_by,
        version=stored.version,
        artefacts=tuple(
            _describe(stored, artefact, there, used_by.get(artefact.name, []), reference) for artefact in found
        ),
        damaged=tuple(as_shown(text, stored, reference) for text in damaged),
        size_bytes=store.folder_bytes(stored.path),
        verified=verified,
    )


def _describe(
    stored: store.Store, artefact: store.Artefact, there: set[str], dependents: Sequence[str], reference: str | Path
) -> ArtefactInfo:
    try:
        stored.check_parents(artefact)
        stale = None
    except store.SpecDiffersError as error:
        stale = as_shown(message(error), stored, reference)
    rows_done, of_run = artefact.rows_done(), artefact.kind == store.Kind.RUN
    return ArtefactInfo(
        name=artefact.name,
        kind=str(artefact.kind),
        rows=artefact.n,
        rows_done=rows_done,
        complete=rows_done == artefact.n,
        size_bytes=artefact.size_bytes() + (store.folder_bytes(_adapter_of(stored, artefact)) if of_run else 0),
        fingerprint=artefact.fingerprint,
        digest=artefact.digest(),
        parents=tuple(artefact.parents),
        removed_parents=tuple(parent for parent in artefact.parents if parent not in there),
        dependents=tuple(dependents),
        stale=stale,
    )


def _adapter_of(stored: store.Store, run: store.Artefact) -> Path:
    return stored.adapter_path(run.name.partition("/")[2])
