"""The facts of a store that a report shows, read with patience: what is damaged or missing is named and left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.data import Row
from ntkcli.errors import NtkselError
from ntkcli.steps.reports.texts import clipped
from ntkcli.steps.shared.commands import message, repairing
from ntkcli.steps.shared.datasets import data_file
from ntkcli.steps.shared.pool_rows import text_of
from ntkcli.steps.shared.row_sets import rows_in_order

Rows = NDArray[np.int64]
T = TypeVar("T")

READING = (store.StoreError, NtkselError, OSError, KeyError, ValueError, TypeError, IndexError, AttributeError)
"""What a damaged, foreign or half-written artefact may raise while it is read."""


@dataclass(frozen=True, slots=True)
class Made:
    """An artefact as the report lists it. `began` and `ended` are the times of its first and last write (s, epoch)."""

    name: str
    kind: str
    rows: int
    done: int
    parents: tuple[str, ...]
    size_bytes: int
    began: float
    ended: float
    stale: bool

    @property
    def complete(self) -> bool:
        """Whether all rows are recorded."""
        return self.done == self.rows


@dataclass(slots=True)
class Facts:
    """A store opened for a report. `damaged` grows while the sections read: (artefact, what is wrong)."""

    stored: store.Store
    made: tuple[Made, ...]
    selection: store.Artefact | None
    score: store.Artefact | None
    damaged: list[tuple[str, str]] = field(default_factory=list)
    texts: dict[tuple[str, int], tuple[str, str, str]] = field(default_factory=dict)
    lost_texts: dict[str, str] = field(default_factory=dict)

    def of_kind(self, kind: str) -> Iterator[store.Artefact]:
        """The finished artefacts of a kind, damaged ones left out."""
        for made in self.made:
            if made.kind == kind and made.complete:
                found = self.attempt(made.name, self.stored.get, made.name)
                if found is not None:
                    yield found

    def unfinished(self, kind: str) -> list[Made]:
        """Artefacts of a kind with rows that are not done."""
        return [made for made in self.made if made.kind == kind and not made.complete]

    def attempt(self, name: str, read: Callable[..., T], *given: Any) -> T | None:
        """What `read(*given)` gives; None where `name` can't be read, which is noted under `damaged`."""
        try:
            return read(*given)
        except READING as error:
            self.note_damage(name, error)
            return None

    def note_damage(self, name: str, error: Exception) -> None:
        """Name an artefact as damaged, once."""
        text = message(error) if isinstance(error, store.StoreError) else f"{type(error).__name__}: {error}"
        if not any(known == name for known, _ in self.damaged):
            self.damaged.append((name, text))

    @property
    def repair(self) -> str:
        """The command that repairs the store."""
        return repairing(self.stored.path).strip("`")

    @property
    def pool(self) -> str | None:
        """The data set that the selection (or score) at hand is of."""
        at_hand = self.selection or self.score
        return None if at_hand is None else str(at_hand.attrs["data"])

    def dataset(self, name: str) -> store.Artefact | None:
        """The data set of that name, if it can be read."""
        return self.attempt(f"datasets/{name}", lambda: self.stored.find(f"datasets/{name}"))

    def load_texts(self, data: str, rows: Iterable[int]) -> None:
        """Read id, source and text of some rows into `texts`, in one pass over the file; `lost_texts` says why not."""
        wanted = np.array(sorted({int(row) for row in rows if (data, int(row)) not in self.texts}), dtype=np.int64)
        dataset = self.dataset(data)
        if dataset is None or not len(wanted):
            return
        try:
            labels = [str(label) for label in dataset.attrs["sources"]]
            ids, codes = dataset.take("row_id", wanted).tolist(), dataset.take("source", wanted).tolist()
        except READING as error:
            self.note_damage(dataset.name, error)
            return
        for row, row_id, code in zip(wanted.tolist(), ids, codes, strict=True):
            self.texts[data, row] = (clipped(str(row_id), 100), clipped(labels[code], 60), "")
        if data in self.lost_texts:
            return
        try:
            for each in rows_in_order(data_file(self.stored, dataset), wanted, dataset.read("status")):
                if isinstance(each, Row):
                    row_id, source, _ = self.texts[data, each.index]
                    self.texts[data, each.index] = (row_id, source, clipped(text_of(each)))
        except READING as error:
            self.lost_texts[data] = message(error) if isinstance(error, store.StoreError) else str(error)

    def row(self, data: str, row: int) -> tuple[str, str, str]:
        """Id, source and text of a row; its number and nothing where they can't be had."""
        return self.texts.get((data, row), (f"row {row}", "", ""))


def collect(stored: store.Store, *, selection: str | None = None) -> Facts:
    """Open everything that can be opened. `selection` is shown in detail; default: the finished one made last, and of a
    random score only where there is no other.

    Raises:
        store.MissingArtefactError: there is no such selection.
    """
    damaged: list[tuple[str, str]] = []
    made, artefacts = [], {}
    for name in _names(stored):
        try:
            artefact = stored.get(name)
            made.append(_made(stored, artefact))
            artefacts[name] = artefact
        except READING as error:
            said = message(error) if isinstance(error, store.StoreError) else str(error)
            damaged.append((name, said))
    facts = Facts(stored, tuple(made), None, None, damaged)
    if selection is not None:
        facts.selection = stored.get(f"selections/{store.check_name(selection, '--selection')}")
    else:
        by_chance = {
            name for name, one in artefacts.items() if name.startswith("selections/") and _random(one, artefacts)
        }
        own = {name: one for name, one in artefacts.items() if name not in by_chance}
        facts.selection = _newest(facts, own, "selection") or _newest(facts, artefacts, "selection")
    facts.score = _score_of(facts, artefacts)
    return facts


def _names(stored: store.Store) -> Sequence[str]:
    return list(stored.names())


def _newest(facts: Facts, artefacts: dict[str, store.Artefact], kind: str) -> store.Artefact | None:
    done = [made for made in facts.made if made.kind == kind and made.complete and made.name in artefacts]
    return artefacts[max(done, key=lambda made: (made.ended, made.name)).name] if done else None


def _random(selection: store.Artefact, artefacts: dict[str, store.Artefact]) -> bool:
    """Whether it is a baseline: chosen by scores that were drawn."""
    scores = [artefacts[name] for name in selection.parents if name.startswith("scores/") and name in artefacts]
    return any(score.spec.get("method") == "random" for score in scores)


def _score_of(facts: Facts, artefacts: dict[str, store.Artefact]) -> store.Artefact | None:
    """The score that the selection was made by; without a selection the newest one."""
    if facts.selection is None:
        return _newest(facts, artefacts, "score")
    names = [name for name in facts.selection.parents if name.startswith("scores/")]
    found = artefacts.get(names[0]) if names else None
    return found if found is not None and found.complete else None


def _made(stored: store.Store, artefact: store.Artefact) -> Made:
    times = sorted(_times(artefact.path))
    try:
        stored.check_parents(artefact)
        stale = False
    except store.StoreError:
        stale = True
    return Made(
        artefact.name, str(artefact.kind), artefact.n, artefact.rows_done(), tuple(artefact.parents),
        artefact.size_bytes() + _adapter_bytes(stored, artefact),
        times[0] if times else 0.0, times[-1] if times else 0.0, stale,
    )  # fmt: skip


def _times(folder: Path) -> Iterator[float]:
    """When the records and the arrays' documents were written; attributes, which are rewritten later, don't count."""
    for path in [*folder.glob("*/zarr.json"), *folder.glob("part/c/*")]:
        if path.is_file():
            yield path.stat().st_mtime


def _adapter_bytes(stored: store.Store, artefact: store.Artefact) -> int:
    if artefact.kind != store.Kind.RUN:
        return 0
    folder = stored.adapter_path(artefact.name.partition("/")[2])
    return store.folder_bytes(folder)


def spec_value(spec: Any, *keys: str) -> Any:
    """A value deep in a spec; None where any step is missing."""
    for key in keys:
        if not isinstance(spec, dict):
            return None
        spec = spec.get(key)
    return spec
