"""What every step begins with: the store, data sets by name, and the rows that a name stands for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli import __version__
from ntkcli.data import BadRow, DataFile, Row, Scan, scan, stdin
from ntkcli.data.encoding import VERSION as ENCODER_VERSION
from ntkcli.data.files import OnError
from ntkcli.data.find_source import names_data
from ntkcli.errors import SpecError, UsageError
from ntkcli.identity import EXACT, ModelIdentity, converted_folder, is_converted
from ntkcli.progress import Progress
from store import atomic

DATASET_PART_ROWS = 1 << 16
"""Rows of a part of a data set, a score or a selection: a few bytes a row, so one part holds most pools."""

_CHECKED_ROWS = 256
"""Rows read before the file is looked at again: a look at a file takes microseconds, at 1,000 files milliseconds."""


def open_store(path: str | Path, *, create: bool = False) -> store.Store:
    """The store at `path`; made there if `create`, else refused when there is none."""
    if create:
        return store.Store.open_or_create(path, made_by=f"ntksel {__version__}")
    return store.Store.open(path)


def encoder_spec(max_length: int, thinking: bool | None = None) -> dict[str, Any]:
    """What can change a row's tokens beside the tokenizer itself, whose digest stands with the model's."""
    spec: dict[str, Any] = {"version": ENCODER_VERSION, "max_length": max_length}
    return spec if thinking is None else {**spec, "thinking": thinking}


def kept_data(stored: store.Store, reference: str | Path) -> str | Path:
    """The reference; for `-` the file in the store that standard input is kept in, `data/stdin-<digest>.<suffix>`."""
    if str(reference) != stdin.STDIN:
        return reference
    folder = stored.path / "data"
    atomic.make_folder(folder)
    path = stdin.keep(folder, temp=stored.tmp_path())
    atomic.sync_folder(folder)
    return path


def read_as_known(
    known: store.Artefact | None, data: str | Path, *, columns: Mapping[str, str] | None, split: str | None
) -> tuple[DataFile, bool]:
    """The file, its columns and split those of the data set where none are given; and whether both are the same."""
    reading = {} if known is None else known.attrs
    file = DataFile(
        data,
        columns=reading.get("columns") if columns is None else columns,
        split=reading.get("split") if split is None and not Path(data).is_file() else split,
    )
    return file, file.columns == (reading.get("columns") or {}) and file.split == reading.get("split")


def register_data(
    stored: store.Store,
    *,
    name: str,
    data: str | Path,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    on_error: OnError = "fail",
) -> tuple[store.Artefact, DataFile]:
    """The data set `name`, made of the file `data` at the first call, and the file itself.

    Later calls compare the file: at once by path, size, mtime and inode (unless `identity.EXACT`), else by content. It
    may move. `-` is standard input, kept in the store; a later call at a terminal goes on with what was kept.
    `columns` (`ntkcli.data.columns`) and `split` are kept, and hold for later calls that don't give any.

    Raises:
        SpecError: the file's rows are not those that the name stands for.
        DataError, UsageError: as `ntkcli.data.scan` has it.
    """
    artefact_name = f"datasets/{store.check_name(name, '--name')}"
    known = stored.find(artefact_name)
    if str(data) == stdin.STDIN and known is not None and not stdin.has_input():
        data = known.attrs["source"]  # resumed at a terminal
    data = kept_data(stored, data)
    file, alike = read_as_known(known, data, columns=columns, split=split)
    seen = file.watch()
    if known is not None and known.complete and alike and _is_known(seen, known):
        _refuse_bad_rows(known, file, on_error)
        return known, file
    found = scan(file, on_error=on_error, folder=stored.tmp_path().parent)
    file.require_unchanged()
    spec = {"digest": found.digest, "schema": found.schema, "n": found.n}
    if known is not None and known.spec != spec:
        raise SpecError(
            f"The data set {name!r} in {stored.path} stands for other rows than {data} has now: "
            + ", ".join(str(difference) for difference in store.differences(known.spec, spec))
            + ".",
            f"Give the file it was made from ({known.attrs['source']}), or another --name for this one.",
        )
    artefact = stored.create(
        artefact_name,
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
        attrs={"source": file.reference, "sources": found.sources, "files": []},
    )
    _write_dataset(artefact, found)
    how = {} if alike and not file.columns and not file.split else {"columns": file.columns, "split": file.split}
    artefact.note(source=file.reference, files=[seen], **how)
    return artefact, file


def data_name(stored: store.Store, reference: str, *, option: str, on_error: OnError = "fail") -> str:
    """The name of a data set of the store: `reference` itself, or of `NAME=FILE` the name, registered as that file.

    Raises:
        UsageError: a file without a name, or a name without a file. SpecError, DataError: as `register_data` has it.
    """
    name, equals, file = reference.partition("=")
    if not equals and ("/" in name or Path(name).suffix) and names_data(name):
        raise UsageError(f"{option} {name} is a file, and its rows need a name.", f"Give {option} NAME={name}.")
    store.check_name(name, option)
    if equals and not file:
        raise UsageError(f"{option} {reference} names no file.", f"Give {option} {name}=FILE, or {name} alone.")
    if equals:
        register_data(stored, name=name, data=file, on_error=on_error)
    return name


def _write_dataset(artefact: store.Artefact, found: Scan) -> None:
    """Write the parts that have no record yet; the ids come from disk, a part at a time."""
    ids, pending = iter(found.row_ids), set(artefact.pending())
    for i in range(artefact.n_parts):
        start, stop = artefact.part_bounds(i)
        part = np.array(list(islice(ids, stop - start)), dtype=object)
        if i in pending:
            arrays = {"row_id": part, "source": found.source_codes[start:stop], "status": found.status[start:stop]}
            artefact.write_part(i, arrays)


def write_rows(artefact: store.Artefact, arrays: dict[str, NDArray[Any]]) -> None:
    """Write all parts that have no record yet, from whole arrays."""
    for i in artefact.pending():
        start, stop = artefact.part_bounds(i)
        artefact.write_part(i, {name: values[start:stop] for name, values in arrays.items()})


def data_file(stored: store.Store, dataset: store.Artefact) -> DataFile:
    """The file of a data set, checked to hold the same rows still."""
    name = dataset.name.partition("/")[2]
    file = DataFile(dataset.attrs["source"], columns=dataset.attrs.get("columns"), split=dataset.attrs.get("split"))
    if not _is_known(file.watch(), dataset):
        register_data(stored, name=name, data=file.reference, on_error="skip")
    return file


@dataclass(frozen=True, slots=True)
class RowSet:
    """Some rows of a data set, in order: what a selection, a data set or a file stands for.

    `spec` goes into the spec of what is made of them; `parents` names the artefacts; `rows` are
    ascending indices (int64), None for all.
    """

    label: str
    spec: dict[str, Any]
    parents: dict[str, str]
    file: DataFile
    rows: NDArray[np.int64] | None
    status: NDArray[np.uint8]

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
    on_error: OnError = "fail",
) -> RowSet:
    """What `reference` stands for: a selection of the store, else a data set of it, else a data file.

    `columns` and `split` are of files; what the store has is read as it was read first.

    Raises:
        UsageError: it is none of the three; the message lists what the store has.
    """
    if stored is not None and reference != stdin.STDIN and "/" not in reference and not Path(reference).suffix:
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


def run_parent(stored: store.Store, reference: str | None) -> dict[str, str]:
    """The run of the store that an adapter's reference names, as a parent; nothing for a folder or None.

    store.SpecDiffersError if what the run was trained on has changed since.
    """
    if reference is None or "/" in reference:
        return {}
    run = stored.find(f"runs/{reference}")
    if run is None:
        return {}
    stored.check_parents(run)
    return {run.name: run.fingerprint}


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
    stored.check_parents(artefact)
    return np.sort(artefact.read("row")), artefact


def _selection(stored: store.Store, name: str) -> RowSet:
    artefact = stored.get(f"selections/{name}")
    stored.check_parents(artefact)
    dataset = stored.get(f"datasets/{artefact.attrs['data']}")
    spec = {"selection": artefact.fingerprint, "data": dataset.spec["digest"]}
    parents = {artefact.name: artefact.fingerprint}
    rows, status = np.sort(artefact.read("row")), dataset.read("status")
    return RowSet(name, spec, parents, data_file(stored, dataset), rows, status)


def _dataset(stored: store.Store, name: str) -> RowSet:
    artefact = stored.get(f"datasets/{name}")
    parents, spec = {artefact.name: artefact.fingerprint}, {"data": artefact.spec["digest"]}
    return RowSet(name, spec, parents, data_file(stored, artefact), None, artefact.read("status"))


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


def require_spec(known: store.Artefact, spec: dict[str, Any]) -> None:
    """Refuse, before anything expensive, to go on with an artefact that was made with other settings."""
    if changed := store.differences(known.spec, spec):
        raise store.SpecDiffersError(
            f"{known.name} exists and was made with other settings: " + ", ".join(map(str, changed)),
            "use those settings or another name",
            differences=changed,
        )


def note_conversion(identity: ModelIdentity, progress: Progress) -> None:
    """Say so if loading the model will first convert its GGUF file, which takes a while, once."""
    if not identity.gguf:
        return
    folder = converted_folder(identity)
    if folder is not None and not is_converted(folder):
        progress.note(f"converting {identity.gguf}, once; the result is kept in {folder}")


def settle_dtype(dtype: str, device: str, known: store.Artefact | None) -> str:
    """The compute dtype as its name: what was asked for; `auto` goes on as the artefact began, if there is one.

    Only an `auto` that is new asks the device, and so imports torch.
    """
    if dtype == "auto" and known is not None:
        return str(known.spec["dtype"])
    if dtype != "auto":
        return dtype
    from ntkcli.engine.models.loading import pick_device, pick_dtype

    return pick_dtype(dtype, pick_device(device))


def _is_known(state: list[Any], dataset: store.Artefact) -> bool:
    """Whether the file in this state was compared with the data set before, and that counts."""
    return not EXACT.get() and state in dataset.attrs.get("files", [])


def _refuse_bad_rows(known: store.Artefact, file: DataFile, on_error: OnError) -> None:
    if on_error == "fail" and bool((known.read("status") >= store.RowStatus.UNREADABLE).any()):
        scan(file, on_error="fail")  # raises, naming the rows
