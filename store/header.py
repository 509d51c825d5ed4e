"""`store.json`: what makes a folder a store, and of which version."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from store import atomic
from store.errors import DamagedError, NewerFormatError, NoStoreError
from store.layout import FORMAT, STORE_FILE, VERSION
from store.scratch import Scratch


def read(store: Path) -> dict[str, Any]:
    """What the header of the folder `store` says: format, version, id, made_by.

    NoStoreError if there is none, or one of another format; NewerFormatError if it is of a later version.
    """
    path = store / STORE_FILE
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        why = f"there is no {STORE_FILE} in it" if store.exists() else "there is no such folder"
        mend = f"make one with `ntksel featurize {store} ...`, or give another path"
        raise NoStoreError(f"{store} holds no ntksel store: {why}", mend) from error
    try:
        said: dict[str, Any] = dict(json.loads(data))
        name, version, _, made_by = said["format"], int(said["version"]), said["id"], said["made_by"]
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{path} is damaged ({error!r})", "restore it from a copy", artefact=STORE_FILE) from error
    if name != FORMAT:
        raise NoStoreError(f"{path} is of the format {name!r}, not {FORMAT!r}", "give another path")
    if version > VERSION:
        what = f"{store} is of format version {version}, made by {made_by}; this program reads up to {VERSION}"
        raise NewerFormatError(what, "update it: `pip install --upgrade ntksel`")
    return said


def create(store: Path, scratch: Scratch, *, made_by: str) -> None:
    """Make the folder `store` and its header, if there is nothing; the first of several creators wins.

    NoStoreError, and nothing written, if the folder holds other things.
    """
    if (store / STORE_FILE).exists():
        return
    _refuse_other_things(store, scratch)
    said = {"format": FORMAT, "version": VERSION, "id": secrets.token_hex(16), "made_by": made_by}
    data = json.dumps(said, indent=2).encode() + b"\n"
    atomic.publish_new(store / STORE_FILE, data, temp=scratch.fresh())


def _refuse_other_things(store: Path, scratch: Scratch) -> None:
    """NoStoreError unless `store` is nothing, an empty folder, or a store that is not quite made yet."""
    if not store.exists():
        return
    if not store.is_dir():
        raise NoStoreError(f"{store} is a file", "give the path of a store or of a new folder")
    entries = sorted(entry.name for entry in store.iterdir())
    others = [name for name in entries if name != scratch.folder.name]
    if STORE_FILE in others:  # another creator was faster
        return
    if others or (entries and not scratch.holds_only_entries()):
        found = ", ".join(entries[:3]) + (", ..." if len(entries) > 3 else "")
        raise NoStoreError(
            f"{store} is no ntksel store and holds other things: {found}",
            "give the path of a store or of a new folder",
        )
