"""`store.json`: what makes a folder a store, and of which version; and its copy."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from store import atomic
from store.errors import DamagedError, NewerFormatError, NoStoreError
from store.fix import creating, fix, rewriting
from store.layout import FORMAT, STORE_FILE, VERSION
from store.scratch import Scratch
from store.spec import FINGERPRINT_DIGITS, canonical_json

DIGEST: Final = "digest"
COPY: Final = ("copy", STORE_FILE)  # not beside it: what takes away one seldom takes the other


def read(store: Path) -> dict[str, Any]:
    """What the header of the folder `store` says: format, version, id, made_by, digest.

    NoStoreError if there is none, or one of another format; NewerFormatError if it is of a later version;
    DamagedError if it was altered, or lost where its copy stands.
    """
    path = store / STORE_FILE
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        if _copy(store) is not None:
            raise _damaged(store, "is missing, and its copy is there") from error
        why = f"there is no {STORE_FILE} in it" if store.exists() else "there is no such folder"
        how = fix("make one with ", creating(store), ", or give another path")
        raise NoStoreError(f"{store} holds no ntksel store: {why}", how) from error
    try:
        said = _checked(json.loads(data))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(store, f"is damaged ({error})") from error
    if said["format"] != FORMAT:
        raise NoStoreError(f"{path} is of the format {said['format']!r}, not {FORMAT!r}", "give another path")
    if said["version"] > VERSION:
        what = f"{store} is of format version {said['version']}, made by {said['made_by']}"
        raise NewerFormatError(
            f"{what}; this program reads up to {VERSION}", "update it: `pip install --upgrade ntksel`"
        )
    return said


def create(store: Path, scratch: Scratch, *, made_by: str) -> None:
    """Make the folder `store` and its header, if there is nothing; the first of several creators wins.

    NoStoreError, and nothing written, if the folder holds other things.
    """
    if (store / STORE_FILE).exists() or _copy(store) is not None:  # which `read` will tell
        return
    _refuse_other_things(store, scratch)
    said: dict[str, Any] = {"format": FORMAT, "version": VERSION, "id": secrets.token_hex(16), "made_by": made_by}
    said[DIGEST] = _digest(said)
    atomic.publish_new(store / STORE_FILE, _document(said), temp=scratch.fresh())


def adopt(store: Path, scratch: Scratch, data: bytes) -> None:
    """Make the folder `store` with the header `data` of another store, if there is nothing.

    NoStoreError, and nothing written, if the folder holds other things. DamagedError if `data` is not a header.
    """
    try:
        said = _checked(json.loads(data))
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"the header that came for {store} is damaged ({error})", "copy it again") from error
    if said["version"] > VERSION:
        what = f"the store that came for {store} is of format version {said['version']}, made by {said['made_by']}"
        raise NewerFormatError(
            f"{what}; this program reads up to {VERSION}", "update it: `pip install --upgrade ntksel`"
        )
    if (store / STORE_FILE).exists() or _copy(store) is not None:
        return
    _refuse_other_things(store, scratch)
    atomic.publish_new(store / STORE_FILE, data, temp=scratch.fresh())


def ensure_copy(store: Path, said: Mapping[str, Any], *, temp: Callable[[], Path]) -> None:
    """Write the copy of the header, which says `said`, if there is none."""
    path = store.joinpath(*COPY)
    if DIGEST in said and not path.exists():
        atomic.make_folder(path.parent)
        atomic.write_bytes(path, _document(said), temp=temp)


def check_copy(store: Path, said: Mapping[str, Any]) -> DamagedError | None:
    """What is wrong with the copy of the header, which says `said`."""
    if DIGEST not in said or _copy(store) == said:
        return None
    what = f"{store.joinpath(*COPY)} is missing, or does not say what {store / STORE_FILE} does"
    return DamagedError(what, rewriting(store))


def remake_copy(store: Path, said: Mapping[str, Any], *, temp: Callable[[], Path]) -> None:
    """Write the copy of the header, whatever stands there."""
    atomic.remove_file(store.joinpath(*COPY))
    ensure_copy(store, said, temp=temp)


def repair(store: str | Path) -> DamagedError | None:
    """What was wrong with the header, now written again from its copy; None if nothing is.

    What was wrong is raised if the copy is no better; NoStoreError and NewerFormatError as `read` has it.
    """
    store = Path(store)
    try:
        read(store)
    except DamagedError as error:
        said = _copy(store)
        if said is None:
            raise
        atomic.write_bytes(store / STORE_FILE, _document(said))
        return error
    return None


def _checked(said: Any) -> dict[str, Any]:
    """A header with all it must say, unaltered; KeyError, TypeError or ValueError if it is none."""
    found = dict(said)
    if missing := sorted({"format", "version", "id", "made_by"} - found.keys()):
        raise ValueError(f"it lacks {', '.join(missing)}")
    if type(found["version"]) is not int:
        raise ValueError(f"its version is {found['version']!r}")
    if (
        others := sorted(found.keys() - {"format", "version", "id", "made_by", DIGEST})
        if found["version"] <= VERSION
        else []
    ):
        raise ValueError(f"it has {', '.join(others)}, which version {found['version']} has not")
    if found.get(DIGEST, _digest(found)) != _digest(found):
        raise ValueError("what it says and its digest disagree")
    return found


def _digest(said: Mapping[str, Any]) -> str:
    """32 hex digits of the SHA-256 of all but the digest as canonical JSON; in every version."""
    text = canonical_json({key: value for key, value in said.items() if key != DIGEST})
    return hashlib.sha256(text).hexdigest()[:FINGERPRINT_DIGITS]


def _document(said: Mapping[str, Any]) -> bytes:
    return json.dumps(dict(said), indent=2).encode() + b"\n"


def _copy(store: Path) -> dict[str, Any] | None:
    """What the copy says; None if there is none, or no good one."""
    try:
        return _checked(json.loads(store.joinpath(*COPY).read_bytes()))
    except (OSError, KeyError, TypeError, ValueError):
        return None


def _damaged(store: Path, why: str) -> DamagedError:
    has_copy = _copy(store) is not None
    how = rewriting(store) if has_copy else "restore it from a copy"
    return DamagedError(f"{store / STORE_FILE} {why}", how, artefact=STORE_FILE)


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
            f"{store} is not an ntksel store and holds other things: {found}",
            "give the path of a store or of a new folder",
        )
