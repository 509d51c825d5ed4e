"""Copy a store's finished parts and artefacts to a URL: only what is missing there or differs, the manifest last."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import store
from ntkcli.errors import BusyError, NtkselError, SpecError, listed
from ntkcli.progress import Progress, Silent
from ntkcli.steps.remote.contents import Contents, comes_last, contents
from ntkcli.steps.remote.grown import longer_here, longer_there, outgrown
from ntkcli.steps.remote.manifest import (
    BEFORE,
    DIGITS,
    MANIFEST,
    Claim,
    FileEntry,
    Manifest,
    Unit,
    read_manifest,
    store_there,
)
from ntkcli.steps.remote.parallel import for_each, kilobytes, total_kilobytes
from ntkcli.steps.remote.place import Place, There
from ntkcli.steps.shared.stores import open_store
from store import layout, transfer

LARGE_BYTES: Final = 1 << 26
"""Files above are read twice, for their digest and to be sent, instead of being held in memory. Parts are smaller but
for the largest; sixteen are held at once."""
SHORT_BYTES: Final = 4
"""Files up to this, the records, have their content in the manifest: so `info` of a URL reads no file for each."""
_READ_BYTES: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class PushResult:
    """What is at the URL now: `files` of `size_bytes`; `sent` of them in `sent_bytes` by this command.

    `unfinished` artefacts with what of them is there; `kept` are artefacts of the URL that the store does not have.
    """

    url: str
    artefacts: tuple[str, ...]
    files: int
    size_bytes: int
    sent: int
    sent_bytes: int
    unfinished: dict[str, str]
    kept: tuple[str, ...]
    dry_run: bool = False


def push(
    store_path: str | Path, url: str, *, force: bool = False, dry_run: bool = False, progress: Progress | None = None
) -> PushResult:
    """Copy what is finished to `url`; a second call goes on after a first that was broken off.

    Files are compared by their digests on both sides. Artefacts at the URL that the store does not have stay there.
    Of one that grew, only the new rows are sent. With `force` one that was made with other settings is replaced.
    `dry_run` only compares.

    Raises:
        UsageError: the URL can't be used, or holds something else.
        SpecError: the URL holds another store, or an artefact of the same name with other settings.
        BusyError: another push began there, or another command changed the store meanwhile.
        NtkselError: access is refused, or the file system reports another error.
    """
    progress = progress or Silent()
    stored = open_store(store_path)
    place = Place.of(url)
    there = place.list()
    _refuse_other_store(place, there, stored)
    found = contents(stored)
    whole = read_manifest(place)
    before = whole or read_manifest(place, BEFORE) or Manifest(stored.id, {})
    grown = _refuse_other_specs(stored, place, before, found, force=force)
    old = outgrown(before, found.units, grown)
    work = _Push(stored, place, found, before, there, tuple(old), has_manifest=whole is not None, dry_run=dry_run)
    return work.run(progress)


def _refuse_other_store(place: Place, there: Mapping[str, There], stored: store.Store) -> None:
    known = store_there(place, there)
    if known is not None and known != stored.id:
        raise SpecError(
            f"{place.url} holds another store ({known[:8]}...), not {stored.path} ({stored.id[:8]}...).",
            "Give another URL.",
        )


def _refuse_other_specs(
    stored: store.Store, place: Place, before: Manifest, found: Contents, *, force: bool
) -> list[str]:
    """Artefacts that grew since they were pushed. SpecError if one there was made with other settings, or has grown
    there, unless it is to be replaced."""
    names = [
        name
        for name, (unit, _) in found.units.items()
        if name in before.units and before.units[name].fingerprint != unit.fingerprint
    ]
    differ = [stored.get(name) for name in names if layout.is_artefact(name)]
    grown = longer_here(before, differ)
    if force:
        return grown
    if longer := longer_there(place, before, [each for each in differ if each.name not in grown]):
        raise SpecError(
            f"{place.url} has more rows of {listed(longer)} than {stored.path}: the pool grew there.",
            f"Pull them first: `ntksel pull {place.url} {stored.path}`.",
        )
    if other := [name for name in names if name not in grown]:
        raise SpecError(
            f"{place.url} has {listed(other)} made with other settings.",
            "Push to another URL, or replace them there: --force.",
        )
    return grown


@dataclass(slots=True)
class _Push:
    """One push: `entries` are of all files that are, or were found, there; `outgrown` units there are removed."""

    stored: store.Store
    place: Place
    found: Contents
    before: Manifest
    there: dict[str, There]
    outgrown: tuple[str, ...]
    has_manifest: bool
    dry_run: bool
    entries: dict[str, FileEntry] = field(default_factory=dict)
    sent: int = 0
    sent_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    known: dict[str, FileEntry] = field(default_factory=dict)

    def run(self, progress: Progress) -> PushResult:
        """Claim the place, compare and send, check, write the manifest."""
        self.known = self.before.files()
        if not self.has_manifest:
            self._forget_lost(progress)
        paths = [path for _, files in self.found.units.values() for path in files]
        with self._whole():
            sizes = {path: (self.stored.path / path).stat().st_size for path in paths}
            vouching = {path: _digests(self.stored.path / path)[0] for path in paths if comes_last(path)}
        claim = Claim(self.place, self.stored.id)
        if not self.dry_run:
            claim.begin()
            self._drop_replaced()
        progress.start(f"push to {self.place.url}", total=total_kilobytes(sizes.values()), unit="kB")
        try:
            for last in (False, True):
                for_each(self._settle, [path for path in paths if comes_last(path) == last], progress)
        finally:
            progress.stop()
        if self.dry_run:
            return self._result()
        self._refuse_changes(vouching)
        self._compare_sizes(paths)
        if not claim.is_ours:
            raise BusyError(f"Another push to {self.place.url} began meanwhile.", "Wait for it, then push again.")
        self.place.write(MANIFEST, self._manifest().document())
        self.place.remove(BEFORE)
        claim.end()
        return self._result()

    def _forget_lost(self, progress: Progress) -> None:
        """Leave out of `before` what is no longer there as it says: a push that replaced files was broken off.

        A unit that only the place has goes whole; of one that the store has too, each part that only the place has.
        """
        own = {path for _, files in self.found.units.values() for path in files}
        units, gone = dict(self.before.units), []
        for name, unit in self.before.units.items():
            mine = self.found.units.get(name)
            if mine is not None and mine[0].fingerprint != unit.fingerprint:
                continue  # replaced now
            others = {path: entry for path, entry in unit.files.items() if path not in own}
            lost = {_part(path) for path, entry in others.items() if not self._is_there(path, entry, "")}
            if lost and mine is None:
                gone.append(name)
                continue
            units[name] = replace(unit, files={p: e for p, e in unit.files.items() if p in own or _part(p) not in lost})
        if gone:
            progress.note(
                f"{self.place.url} lost files of {listed(gone)} in a push that was broken off: it is left out"
            )
        self.outgrown = tuple(dict.fromkeys((*self.outgrown, *gone)))
        self.before = replace(self.before, units=units)

    def _settle(self, path: str) -> int:
        """Send a file unless it is there; returns its kB."""
        file = self.stored.path / path
        with self._whole():
            size = file.stat().st_size
            data = file.read_bytes() if size <= LARGE_BYTES else None
            sha, md5 = _digests(file if data is None else data)
        if data is not None and transfer.is_chunk(path):
            transfer.refuse_damaged_chunk(self.stored, path, data)
        entry = FileEntry(size if data is None else len(data), sha, content=_short(data))
        if not self._is_there(path, entry, md5):
            self._send(path, file, data, entry)
        with self.lock:
            self.entries[path] = entry
        return kilobytes(size)

    def _is_there(self, path: str, entry: FileEntry, md5: str) -> bool:
        """Whether the place has this file with this content, by the cheapest digest that proves it."""
        there = self.there.get(path)
        if there is None or there.size != entry.size:
            return False
        if there.md5 == md5:
            return True
        known = self.known.get(path)
        if known is not None and there.mark is not None and known.mark == there.mark:
            return known.sha256 == entry.sha256
        found = self.place.sha256(path)
        return found is not None and found[:DIGITS] == entry.sha256

    def _send(self, path: str, file: Path, data: bytes | None, entry: FileEntry) -> None:
        if not self.dry_run:
            if path in self.known:
                self._withdraw_manifest()
            if data is not None:
                self.place.write(path, data)
            else:
                self.place.upload(path, file)
        with self.lock:
            self.sent += 1
            self.sent_bytes += entry.size

    def _withdraw_manifest(self) -> None:
        """Move the manifest away before the first file is replaced that it lists."""
        with self.lock:
            if self.has_manifest:
                self.place.write(BEFORE, self.before.document())
                self.place.remove(MANIFEST)
                self.has_manifest = False

    def _drop_replaced(self) -> None:
        """Remove files of artefacts there that are replaced, or were outgrown, and that no file of ours replaces."""
        for name, (unit, files) in self.found.units.items():
            old = self.before.units.get(name)
            for path in sorted(old.files.keys() - set(files)) if old and old.fingerprint != unit.fingerprint else ():
                self._withdraw_manifest()
                self.place.remove(path)
        for path in [path for name in self.outgrown for path in self.before.units[name].files]:
            self._withdraw_manifest()
            self.place.remove(path)

    def _refuse_changes(self, vouching: Mapping[str, str]) -> None:
        """BusyError if a file that vouches for others is not what it was before they were read, or one that was read
        twice is not what was sent."""
        for path, entry in self.entries.items():
            if path in vouching or entry.size > LARGE_BYTES:
                with self._whole():
                    now, _ = _digests(self.stored.path / path)
                if {now, vouching.get(path, now)} != {entry.sha256}:
                    raise self._busy(path)

    def _compare_sizes(self, paths: list[str]) -> None:
        """Compare every file with a listing made now, by size; keep what marks it."""
        there = self.place.list()
        for path in paths:
            entry, now = self.entries[path], there.get(path)
            if now is None or now.size != entry.size:
                found = "is not there" if now is None else f"has {now.size} bytes there, not {entry.size}"
                raise NtkselError(f"{self.place.url}/{path} {found}, although it was sent.", "Push again.")
            self.entries[path] = replace(entry, mark=now.mark)

    def _manifest(self) -> Manifest:
        """What is there now: the store's units, joined with what was there of the same settings, and others there."""
        units = {name: unit for name, unit in self.before.units.items() if name not in self.outgrown}
        for name, (unit, files) in self.found.units.items():
            own = {path: self.entries[path] for path in files}
            old = units.get(name)
            if old is None or old.fingerprint != unit.fingerprint or name.startswith("adapters/"):
                units[name] = replace(unit, files=own)
                continue
            both = {**old.files, **own}
            units[name] = replace(unit, rows_done=_rows_done(self.stored, name, both, unit), files=both)
        return Manifest(self.stored.id, units)

    def _whole(self) -> _Vanishing:
        return _Vanishing(self.stored.path)

    def _busy(self, path: str) -> BusyError:
        return BusyError(
            f"{self.stored.path / path} changed while it was pushed: another command writes to the store.",
            "Wait for it, then push again: only what differs is sent.",
        )

    def _result(self) -> PushResult:
        names = [name for name in self.found.units if layout.is_artefact(name)]
        return PushResult(
            url=self.place.url,
            artefacts=tuple(sorted(names)),
            files=len(self.entries),
            size_bytes=sum(entry.size for entry in self.entries.values()),
            sent=self.sent,
            sent_bytes=self.sent_bytes,
            unfinished=self.found.unfinished,
            kept=tuple(sorted(self.before.units.keys() - self.found.units.keys() - {*self.outgrown})),
            dry_run=self.dry_run,
        )


class _Vanishing:
    """Within, a file that is gone is another command's doing."""

    def __init__(self, store_path: Path) -> None:
        self._store = store_path

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise BusyError(
                f"{error.filename} was removed while {self._store} was pushed: another command writes to the store.",
                "Wait for it, then push again: only what differs is sent.",
            ) from error


def _rows_done(stored: store.Store, name: str, files: Mapping[str, FileEntry], unit: Unit) -> int:
    """Rows of the parts that have a record among these files, the store's and those that others pushed."""
    if not layout.is_artefact(name):
        return 0
    artefact = stored.get(name)
    records = [int(path.rpartition("/")[2]) for path in files if transfer.is_record(path)]
    return sum(stop - start for start, stop in map(artefact.part_bounds, records)) if records else unit.rows_done


def _part(path: str) -> str:
    """What files that appear together have in common: the number of their part; of a file by itself its path."""
    is_of_part = transfer.is_chunk(path) or transfer.is_record(path)
    return path.rpartition("/c/")[2].partition("/")[0] if is_of_part else path


def _digests(source: Path | bytes) -> tuple[str, str]:
    """The first 32 hex digits of the SHA-256, and the MD5 that object stores show."""
    sha, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    if isinstance(source, bytes):
        sha.update(source)
        md5.update(source)
    else:
        with source.open("rb") as file:
            while data := file.read(_READ_BYTES):
                sha.update(data)
                md5.update(data)
    return sha.hexdigest()[:DIGITS], md5.hexdigest()


def _short(data: bytes | None) -> bytes | None:
    return data if data is not None and len(data) <= SHORT_BYTES else None
