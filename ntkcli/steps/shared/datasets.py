"""Data sets of a store by name: register the file that holds their rows, and find it again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import store
from ntkcli.choices import OnError
from ntkcli.data import DataFile, scan, stdin
from ntkcli.data.find_source import names_data
from ntkcli.data.references import is_there, split_name
from ntkcli.doors import SPEC_KEY, refuse_missing
from ntkcli.errors import UsageError
from ntkcli.identity import EXACT
from ntkcli.paths import home
from ntkcli.steps.shared.growth import grown_data, has_grown, is_longer, new_data, other_rows
from store import atomic, layout


def kept_data(stored: store.Store | None, reference: str | Path) -> str | Path:
    """The reference; for `-` the file in the store that standard input is kept in, `data/stdin-<digest>.<suffix>`."""
    if str(reference) != stdin.STDIN or stored is None:
        return reference
    folder = stored.path / "data"
    atomic.make_folder(folder)
    path = stdin.keep(folder, temp=stored.tmp_path())
    atomic.sync_folder(folder)
    return path


def read_as_known(
    known: store.Artefact | None, data: str | Path, *, columns: Mapping[str, str] | None, split: str | None
) -> tuple[DataFile, bool]:
    """The file, columns and split those of the data set where none are given; and whether it is read as before."""
    if known is not None:
        refuse_missing(known.spec, known.name)
    reading = {} if known is None else known.attrs
    file = DataFile(
        data,
        columns=reading.get("columns") if columns is None else columns,
        split=reading.get("split") if split is None and not Path(home(data)).is_file() else split,
    )
    alike = file.columns == (reading.get("columns") or {}) and file.split == reading.get("split")
    return file, alike and (known is None or file.plugins == known.spec.get(SPEC_KEY, {}))


def register_data(
    stored: store.Store,
    *,
    name: str,
    data: str | Path,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    on_error: OnError = OnError.FAIL,
    grow: bool = False,
) -> tuple[store.Artefact, DataFile]:
    """The data set `name`, made of the file `data` at the first call, and the file itself.

    Later calls compare the file: at once by path, size, mtime and inode (unless `identity.EXACT`), else by content. It
    may move. `-` is standard input, kept in the store; a later call at a terminal goes on with what was kept.
    `columns` (`ntkcli.data.columns`) and `split` are kept, and hold for later calls that don't give any. `grow`: a file
    that begins with the same rows and has more makes the data set longer.

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
    head_rows = -1 if known is None else known.n
    found = scan(file, on_error=on_error, folder=stored.tmp_path().parent, head_rows=head_rows)
    file.require_unchanged()
    spec: dict[str, Any] = {"digest": found.digest, "schema": found.schema, "n": found.n}
    if file.plugins:
        spec[SPEC_KEY] = file.plugins
    how = {} if alike and not file.columns and not file.split else {"columns": file.columns, "split": file.split}
    if known is not None and known.spec != spec:
        if not is_longer(known, found, spec):
            raise other_rows(stored, known, found, spec, data)
        if not grow:
            raise has_grown(stored, known, found, data)
        return grown_data(stored, known, found, spec, {"source": file.reference, "files": [seen], **how}), file
    artefact = new_data(stored, artefact_name, found, spec, source=file.reference)
    artefact.note(source=file.reference, files=[seen], **how)
    return artefact, file


def data_name(stored: store.Store, reference: str, *, option: str, on_error: OnError = OnError.FAIL) -> str:
    """The name of a data set of the store: `reference` itself, or of `NAME=FILE` the name, registered as that file.

    Raises:
        UsageError: a file without a name, or a name without a file. SpecError, DataError: as `register_data` has it.
    """
    name, file = split_name(reference)
    if name is not None:
        if not file:
            raise UsageError(f"{option} {reference} names no file.", f"Give {option} {name}=FILE, or {name} alone.")
        register_data(stored, name=name, data=file, on_error=on_error, grow=True)
        return name
    known = layout.is_name(reference) and stored.find(f"datasets/{reference}") is not None
    if not known and ("/" in reference or Path(reference).suffix or "=" in reference) and names_data(reference):
        raise UsageError(
            f"{option} {reference} is a file, and its rows need a name.", f"Give {option} NAME={reference}."
        )
    return store.check_name(reference, option)


def data_file(stored: store.Store, dataset: store.Artefact) -> DataFile:
    """The file of a data set, checked to hold the same rows still."""
    name = dataset.name.partition("/")[2]
    refuse_missing(dataset.spec, dataset.name)
    source = _source_now(stored, dataset)
    file = DataFile(source, columns=dataset.attrs.get("columns"), split=dataset.attrs.get("split"))
    if not _is_known(file.watch(), dataset) or file.plugins != dataset.spec.get(SPEC_KEY, {}):
        register_data(stored, name=name, data=file.reference, on_error=OnError.SKIP)
    return file


def _is_known(state: list[Any], dataset: store.Artefact) -> bool:
    """Whether the file in this state was compared with the data set before, and that counts."""
    return not EXACT.get() and state in dataset.attrs.get("files", [])


def _refuse_bad_rows(known: store.Artefact, file: DataFile, on_error: OnError) -> None:
    if on_error == OnError.FAIL and bool((known.read("status") >= store.RowStatus.UNREADABLE).any()):
        scan(file, on_error=OnError.FAIL)  # raises, naming the rows


def moved_data(stored: store.Store, references: Sequence[str], *, default: Sequence[str] = ()) -> None:
    """Note where the files of data sets are now: `NAME=FILE`, or `FILE` where `default` has the one data set meant.

    Raises:
        UsageError: no such data set or file, or it isn't clear which is meant.
        SpecError: the file holds other rows.
    """
    for reference in references:
        name, file = split_name(reference)
        if name is None and len(set(default)) != 1:
            raise UsageError(f"--data {reference}: it is not clear of which data set.", f"Give NAME={reference}.")
        name = name or default[0]
        if stored.find(f"datasets/{name}") is None:
            have = ", ".join(each.name.partition("/")[2] for each in stored.artefacts(store.Kind.DATASET))
            raise UsageError(f"--data {reference}: the store has no data set {name!r}.", f"It has: {have or 'none'}.")
        register_data(stored, name=name, data=file, on_error=OnError.SKIP)


def data_sets_of(stored: store.Store, reference: str) -> list[str]:
    """The data set behind a name of the store: a selection's, else that of the name; none for a file."""
    if not layout.is_name(reference):
        return []
    if (selection := stored.find(f"selections/{reference}")) is not None:
        return [str(selection.attrs["data"])]
    return [reference] if stored.find(f"datasets/{reference}") is not None else []


def _source_now(stored: store.Store, dataset: store.Artefact) -> str:
    """The reference of a data set's rows. UsageError, with the option that names their new place, if they are gone."""
    source, name = str(dataset.attrs["source"]), dataset.name.partition("/")[2]
    kept = stored.path / "data" / Path(source).name
    if Path(source).parent.name == "data" and not Path(source).exists() and kept.exists():
        return str(kept)  # of standard input, in a store that has moved
    if os.path.isabs(source) and not is_there(source) and not names_data(source):
        raise UsageError(
            f"The file of the data set {name!r} is gone: {source}.", f"Give its new place: --data {name}=FILE."
        )
    return source
