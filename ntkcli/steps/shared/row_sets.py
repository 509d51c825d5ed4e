"""The rows that a name stands for: a selection, a data set or a file, read in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import OnError
from ntkcli.data import BadRow, DataFile, Row, scan
from ntkcli.data.find_source import names_data
from ntkcli.errors import SpecError, UsageError
from ntkcli.steps.shared.datasets import data_file, kept_data
from ntkcli.steps.shared.stores import require_current
from store import layout

_CHECKED_ROWS = 256
"""Rows read before the file is looked at again: a look at a file takes microseconds, at 1,000 files milliseconds."""


@dataclass(frozen=True, slots=True)
class RowSet:
    """Some rows of a data set, in order: what a selection, a data set or a file stands for.

    `spec` goes into the spec of what is made of them; `parents` names the artefacts; `rows` are
    ascending indices (int64), None for all. `dataset` is the store's, if the rows are of one.
    """

    label: str
    spec: dict[str, Any]
    parents: dict[str, str]
    file: DataFile
    rows: NDArray[np.int64] | None
    status: NDArray[np.uint8]
    dataset: store.Artefact | None = None

    def __iter__(self) -> Iterator[Row | BadRow]:
        """The rows in the order of the file."""
        return rows_in_order(self.file, self.rows, self.status)


def resolve_rows(
    stored: store.Store | None,
    reference: str,
    *,
    option: str,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    on_error: OnError = OnError.FAIL,
) -> RowSet:
    """What `reference` stands for: a selection of the store, else a data set of it, else a data file.

    `columns` and `split` are of files; what the store has is read as it was read first.

    Raises:
        UsageError: it is none of the three; the message lists what the store has.
    """
    if stored is not None and layout.is_name(reference):  # also with a dot; ./picked.v2 is the file of that name
        for place in ("selections", "datasets"):
            if stored.find(f"{place}/{reference}") is not None:
                return _selection(stored, reference) if place == "selections" else _dataset(stored, reference)
    if names_data(reference):
        reference = reference if stored is None else str(kept_data(stored, reference))
        file = DataFile(reference, columns=columns, split=split)
        file.watch()
        found = scan(file, on_error=on_error)
        file.require_unchanged()
        return RowSet(reference, {"data": found.digest}, {}, file, None, found.status)
    if stored is None:
        raise UsageError(f"{option} {reference}: no such file, and no store yet.", "Give the path of a data file.")
    have = [
        a.name.partition("/")[2] for kind in (store.Kind.SELECTION, store.Kind.DATASET) for a in stored.artefacts(kind)
    ]
    raise UsageError(
        f"{option} {reference}: no selection or data set of that name in {stored.path}, and no such file.",
        f"Give a file, or one of: {', '.join(have)}." if have else "Give the path of a data file.",
    )


def selected_rows(
    stored: store.Store, selection: str, *, dataset: store.Artefact
) -> tuple[NDArray[np.int64], store.Artefact]:
    """The rows of a selection in ascending order, and the selection; refused if it is of another data set."""
    artefact = stored.get(f"selections/{store.check_name(selection, '--rows')}")
    if artefact.attrs["data"] != dataset.name.partition("/")[2]:
        raise SpecError(
            f"--rows {selection} selects rows of the data set {artefact.attrs['data']!r}, not of {dataset.name!r}.",
            "Give a selection of the same data set.",
        )
    require_current(stored, artefact)
    return np.sort(artefact.read("row")), artefact


def _selection(stored: store.Store, name: str) -> RowSet:
    artefact = stored.get(f"selections/{name}")
    require_current(stored, artefact)
    dataset = stored.get(f"datasets/{artefact.attrs['data']}")
    spec = {"selection": artefact.fingerprint, "data": dataset.spec["digest"]}
    parents = {artefact.name: artefact.fingerprint}
    rows, status = np.sort(artefact.read("row")), dataset.read("status")
    return RowSet(name, spec, parents, data_file(stored, dataset), rows, status, dataset)


def _dataset(stored: store.Store, name: str) -> RowSet:
    artefact = stored.get(f"datasets/{name}")
    parents, spec = {artefact.name: artefact.fingerprint}, {"data": artefact.spec["digest"]}
    return RowSet(name, spec, parents, data_file(stored, artefact), None, artefact.read("status"), artefact)


def rows_in_order(file: DataFile, rows: NDArray[np.int64] | None, status: NDArray[np.uint8]) -> Iterator[Row | BadRow]:
    """All rows of a file, or those at ascending indices, as a stream; what `status` calls bad is a BadRow.

    DataError if the file is watched and changes on the way.

    (A row whose id stands twice reads well by itself; only the scan of the whole file knows.)
    """
    stream = file.rows(None if rows is None else map(int, rows))
    while some := list(islice(stream, _CHECKED_ROWS)):
        file.require_unchanged()  # what is handed on was read before, from the file that its digest is of
        for row in some:
            if isinstance(row, Row) and status[row.index] >= store.RowStatus.UNREADABLE:
                code = int(status[row.index])
                yield BadRow(row.index, row.line, "its id stands twice", code, "", row.file, row.unit)
            else:
                yield row
