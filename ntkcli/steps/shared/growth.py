"""A data set out of a file; and one whose file has rows appended: it is told by its first rows, and what was made of
these is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import store
from ntkcli.data import Scan
from ntkcli.errors import SpecError
from ntkcli.steps.shared.commands import making
from ntkcli.steps.shared.stores import DATASET_PART_ROWS


def is_longer(known: store.Artefact, found: Scan, spec: Mapping[str, Any]) -> bool:
    """Whether the file's first rows are all rows of the data set, and it has more, read in the same way."""
    rest = ({key: value for key, value in each.items() if key not in ("digest", "n")} for each in (known.spec, spec))
    same, now = rest
    return found.n > known.n and found.head == known.spec["digest"] and same == now


def grown_data(
    stored: store.Store, known: store.Artefact, found: Scan, spec: Mapping[str, Any], attrs: Mapping[str, Any]
) -> store.Artefact:
    """The data set with the rows of a file that is longer."""
    return stored.grow(
        known.name,
        spec=spec,
        parents={},
        n=found.n,
        part_rows=DATASET_PART_ROWS,
        attrs={**attrs, "sources": found.sources},
        write=lambda artefact: _write_dataset(artefact, found),
    )


def new_data(stored: store.Store, name: str, found: Scan, spec: Mapping[str, Any], *, source: str) -> store.Artefact:
    """The data set of a file that was read, made or gone on with."""
    artefact = stored.create(
        name,
        kind=store.Kind.DATASET,
        spec=spec,
        parents={},
        n=found.n,
        part_rows=DATASET_PART_ROWS,
        arrays={
            "row_id": store.ArraySpec(str),
            "source": store.ArraySpec("int32"),
            "status": store.ArraySpec("uint8", attrs=store.status_attrs()),
        },
        attrs={"source": source, "sources": found.sources, "files": []},
    )
    _write_dataset(artefact, found)
    return artefact


def _write_dataset(artefact: store.Artefact, found: Scan) -> None:
    """Write the parts that have no record yet; the ids come from disk, a part at a time."""
    ids, pending = iter(found.row_ids), set(artefact.pending())
    for i in range(artefact.n_parts):
        start, stop = artefact.part_bounds(i)
        part = np.array(list(islice(ids, stop - start)), dtype=object)
        if i in pending:
            arrays = {"row_id": part, "source": found.source_codes[start:stop], "status": found.status[start:stop]}
            artefact.write_part(i, arrays)


def has_grown(stored: store.Store, known: store.Artefact, found: Scan, data: str | Path) -> SpecError:
    """The error for a file that is longer where the rows that are known are asked for."""
    name = known.name.partition("/")[2]
    return SpecError(
        f"{data} has {found.n} rows; the data set {name!r} in {stored.path}, and all that was made of it, has the "
        f"first {known.n} of them.",
        f"Run {making(stored.path, known.name)} with --data {data}, which computes the new rows only, and make scores "
        f"and selections again; or give a file of the first {known.n} rows.",
    )


def other_rows(
    stored: store.Store, known: store.Artefact, found: Scan, spec: Mapping[str, Any], data: str | Path
) -> SpecError:
    """The error for a file that holds other rows than the data set."""
    name, row = known.name.partition("/")[2], _first_other(known, found)
    where = "" if row is None else f"; row {row + 1} is the first whose id differs"
    return SpecError(
        f"The data set {name!r} in {stored.path} holds other rows than {data} has now: "
        + ", ".join(str(difference) for difference in store.differences(known.spec, spec))
        + f"{where}.",
        f"Give the file it was made from ({known.attrs['source']}), or another --name for this one. Rows may be "
        "appended to it, and not changed.",
    )


def _first_other(known: store.Artefact, found: Scan) -> int | None:
    """The first row, of those that both have, with another id; None if there is none."""
    if not known.complete:
        return None
    now = enumerate(found.row_ids)
    for _, arrays in known.blocks(["row_id"]):
        for before, (row, row_id) in zip(arrays["row_id"], now, strict=False):
            if before != row_id:
                return row
    return None


def grew_from(dataset: store.Artefact, made: store.Artefact) -> bool:
    """Whether something was made of this data set when it was shorter, and of nothing else that has changed."""
    before = made.parents.get(dataset.name)
    return before is not None and dataset.rows_before(before) is not None


def take_over_counts(stored: store.Store, dataset: store.Artefact, counts: store.Artefact) -> None:
    """Fill whole parts of token counts with what was counted when the data set was shorter."""
    data = dataset.name.partition("/")[2]
    same = {key: value for key, value in counts.spec.items() if key != "data"}
    for name in [name for name in stored.names([store.Kind.TOKENS]) if name.split("/")[1] == data]:
        old = stored.find(name)
        if old is None or not grew_from(dataset, old) or {**old.spec, "data": None} != {**same, "data": None}:
            continue
        with suppress(
            store.StoreError
        ):  # not finished, or another shard is done and removed it: they are counted again
            for i in counts.pending():
                start, stop = counts.part_bounds(i)
                if stop <= old.n:
                    counts.write_part(i, {array: old.read(array, start, stop) for array in counts.arrays})


def forget_counts(stored: store.Store, dataset: store.Artefact) -> None:
    """Remove token counts of the data set when it was shorter: nothing looks for them any more."""
    data = dataset.name.partition("/")[2]
    for name in [name for name in stored.names([store.Kind.TOKENS]) if name.split("/")[1] == data]:
        old = stored.find(name)
        if old is not None and grew_from(dataset, old):
            with suppress(store.StoreError, OSError):  # another shard was first
                stored.remove(name)
