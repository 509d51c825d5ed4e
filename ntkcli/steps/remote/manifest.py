"""The manifest of a pushed store: every file with its digest, written last; and what a place holds by its files.

`push.json` lists what was pushed. `push.begun.json` is there from a push's first write to its last: whose it is. A push
that replaces a file that the manifest lists moves the manifest to `push.before.json` first: so a manifest is never
wrong, and what only the place has is not forgotten if that push is broken off. No time is compared: clocks differ.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ntkcli import __version__
from ntkcli.errors import IncompleteError, UsageError
from ntkcli.steps.remote.place import Place
from store import canonical_json
from store.layout import STORE_FILE

MANIFEST: Final = "push.json"
BEGUN: Final = "push.begun.json"
BEFORE: Final = "push.before.json"
_FORMAT: Final = "ntksel-push"
VERSION: Final = 1
DIGITS: Final = 32
"""Of a SHA-256 in hex: 128 bits."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file: its bytes, the first 32 hex digits of its SHA-256, what its place showed of it, and short content."""

    size: int
    sha256: str
    mark: str | None = None
    content: bytes | None = None

    def to_json(self) -> dict[str, Any]:
        """Without what is not known."""
        said: dict[str, Any] = {"bytes": self.size, "sha256": self.sha256}
        said |= {} if self.mark is None else {"mark": self.mark}
        return said | ({} if self.content is None else {"content": self.content.hex()})

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> FileEntry:
        """The entry that `to_json` wrote."""
        content = said.get("content")
        return cls(said["bytes"], said["sha256"], said.get("mark"), None if content is None else bytes.fromhex(content))


@dataclass(frozen=True, slots=True)
class Unit:
    """What is pushed and pulled as one: an artefact, an adapter, a folder; `rows_done` of `rows` of an artefact."""

    fingerprint: str | None
    rows: int
    rows_done: int
    files: dict[str, FileEntry] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """A pushed store: its id and its units by name."""

    store: str
    units: dict[str, Unit]

    def files(self) -> dict[str, FileEntry]:
        """Every file by its path in the store."""
        return {path: entry for unit in self.units.values() for path, entry in unit.files.items()}

    def document(self) -> bytes:
        """As it is written."""
        units = {
            name: {
                "fingerprint": unit.fingerprint,
                "rows": unit.rows,
                "rows_done": unit.rows_done,
                "files": {path: entry.to_json() for path, entry in sorted(unit.files.items())},
            }
            for name, unit in sorted(self.units.items())
        }
        said = {"format": _FORMAT, "version": VERSION, "made_by": f"ntksel {__version__}", "store": self.store}
        said |= {"units": units}
        return json.dumps({**said, "digest": _digest(said)}, indent=1).encode()


def read_manifest(place: Place, name: str = MANIFEST) -> Manifest | None:
    """The manifest at a place; None if there is none, or it was cut off: then nothing is known to be whole.

    Raises:
        UsageError: it is of a newer version of ntksel, or of something else.
    """
    data = place.read(name)
    if data is None:
        return None
    try:
        said = json.loads(data)
        form, version = said["format"], said["version"]
    except (ValueError, TypeError, LookupError):
        return None
    if form != _FORMAT:
        raise UsageError(f"{place.url} holds a {name} of the format {form!r}, not {_FORMAT!r}.", "Give another URL.")
    if version != VERSION:
        raise UsageError(
            f"{place.url} was pushed in format version {version}, and this program reads {VERSION}.",
            "Update it: `pip install --upgrade ntksel`.",
        )
    if _digest({key: value for key, value in said.items() if key != "digest"}) != said.get("digest"):
        return None
    if odd := [path for of in said["units"].values() for path in of["files"] if not _is_inside(path)]:
        raise UsageError(f"{place.url}: its {name} lists files outside of the store: {odd[0]!r}.", "Don't use it.")
    units = {
        unit: Unit(
            of["fingerprint"],
            of["rows"],
            of["rows_done"],
            {path: FileEntry.of(entry) for path, entry in of["files"].items()},
        )
        for unit, of in said["units"].items()
    }
    return Manifest(said["store"], units)


def require_manifest(place: Place) -> Manifest:
    """The manifest of a whole store.

    Raises:
        IncompleteError: nothing is there, or a push was broken off or is under way.
        UsageError: something else is there.
    """
    found = read_manifest(place)
    if found is not None:
        return found
    if place.read(BEGUN) is not None:
        raise IncompleteError(
            f"{place.url} is half pushed: a push was broken off there, or is still under way.",
            f"Finish it where the store is: `ntksel push STORE {place.url}`.",
        )
    place.require_bucket()
    there = place.list()
    if not there:
        raise IncompleteError(f"{place.url}: there is no store.", f"Push one: `ntksel push STORE {place.url}`.")
    if STORE_FILE in there:
        raise IncompleteError(
            f"{place.url} holds a store without the {MANIFEST} that `ntksel push` writes last.",
            f"Push it there: `ntksel push STORE {place.url}`, which sends only what is missing.",
        )
    raise UsageError(f"{place.url} is not a pushed store, and holds other things: {_some(there)}.", "Give another URL.")


class Claim:
    """A push that is under way at a place, known by a random token in `push.begun.json`."""

    def __init__(self, place: Place, store: str) -> None:
        self._place = place
        self._data = json.dumps({"format": _FORMAT, "store": store, "token": secrets.token_hex(16)}).encode()

    def begin(self) -> None:
        """From here on the place counts as half pushed, unless its manifest stays."""
        self._place.write(BEGUN, self._data)

    @property
    def is_ours(self) -> bool:
        """Whether no other push began since."""
        return self._place.read(BEGUN) == self._data

    def end(self) -> None:
        """The push is whole."""
        self._place.remove(BEGUN)


def store_there(place: Place, there: Mapping[str, Any]) -> str | None:
    """The id of the store that a place holds, whole or half pushed; None if it is empty.

    Raises:
        UsageError: the place holds something else.
    """
    for name, key in ((BEGUN, "store"), (STORE_FILE, "id")):
        data = place.read(name) if name in there else None
        try:
            if data is not None:
                return str(json.loads(data)[key])
        except (ValueError, TypeError, LookupError):
            continue
    if set(there) - {BEGUN}:
        raise UsageError(
            f"{place.url} is not a pushed store, and holds other things: {_some(there)}.",
            "Give a URL with nothing below it.",
        )
    return None


def _is_inside(path: str) -> bool:
    """Whether a path of a manifest, which anybody may have written, stays in the folder that it is put in."""
    return bool(path) and "\\" not in path and all(part not in ("", ".", "..") for part in path.split("/"))


def _some(there: Mapping[str, Any]) -> str:
    names = sorted(there)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _digest(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(dict(said))).hexdigest()[:DIGITS]
