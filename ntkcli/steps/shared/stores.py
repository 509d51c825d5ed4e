"""Open a store, write whole arrays to it, and refuse what was made with other settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

import store
from ntkcli import __version__
from ntkcli.doors import refuse_missing
from ntkcli.errors import UsageError
from ntkcli.paths import home, remote_url, without_secrets
from store import layout

DATASET_PART_ROWS = 1 << 16
"""Rows of a part of a data set, a score or a selection: a few bytes a row, so one part holds most pools."""


def open_store(path: str | Path, *, create: bool = False) -> store.Store:
    """The store at `path`; made there if `create`, else refused when there is none."""
    refuse_url(path)
    path = home(path)
    if create:
        return store.Store.open_or_create(path, made_by=f"ntksel {__version__}")
    return store.Store.open(path)


def write_rows(artefact: store.Artefact, arrays: dict[str, NDArray[Any]]) -> None:
    """Write all parts that have no record yet, from whole arrays."""
    for i in artefact.pending():
        start, stop = artefact.part_bounds(i)
        artefact.write_part(i, {name: values[start:stop] for name, values in arrays.items()})


def require_spec(known: store.Artefact, spec: dict[str, Any]) -> None:
    """Refuse, before anything expensive, to go on with an artefact that was made with other settings."""
    if changed := store.differences(known.spec, spec):
        raise store.SpecDiffersError(
            f"{known.name} exists and was made with other settings: " + ", ".join(map(str, changed)),
            "use those settings or another name",
            differences=changed,
        )


def require_current(stored: store.Store, artefact: store.Artefact) -> None:
    """Refuse to go on from an artefact whose sources have changed, or whose plug-in is not installed.

    Raises:
        store.SpecDiffersError: what it was made from has changed.
        UsageError: it was made with a plug-in that is not installed; names it.
    """
    stored.check_parents(artefact)
    refuse_missing(artefact.spec, artefact.name)


def is_store(path: str | Path) -> bool:
    """Whether there is a store at `path`."""
    refuse_url(path)
    return (Path(home(path)) / layout.STORE_FILE).exists()


def refuse_url(path: str | Path, what: str = "This") -> None:
    """UsageError if a store is given as a URL to something that works on folders only."""
    if (url := remote_url(path)) is not None:
        raise UsageError(
            f"{what} works on a store in a folder, and {without_secrets(url)} is a URL; `ntksel info` and "
            "`ntksel explain` read one in place.",
            f"Copy it first: `ntksel pull {without_secrets(url)} FOLDER`, and give the folder.",
        )
