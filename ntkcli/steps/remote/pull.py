"""Copy a pushed store from a URL into a folder: only what is missing or differs, and every file by its digest."""

from __future__ import annotations

import hashlib
import os
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import store
from ntkcli.errors import BusyError, NtkselError, SpecError, UsageError, listed
from ntkcli.paths import home, remote_url
from ntkcli.progress import Progress, Silent
from ntkcli.steps.remote.contents import HEADER, comes_last
from ntkcli.steps.remote.grown import longer_here, longer_there
from ntkcli.steps.remote.manifest import BEGUN, DIGITS, FileEntry, Manifest, Unit, require_manifest
from ntkcli.steps.remote.parallel import for_each, kilobytes, total_kilobytes
from ntkcli.steps.remote.place import Place
from ntkcli.steps.training.run import alone
from ntkcli.units import human_bytes
from store import atomic, layout, transfer
from store.layout import STORE_FILE

_ADAPTERS: Final = "adapters/"


@dataclass(frozen=True, slots=True)
class PullResult:
    """What was pulled into `store`: `files` of `size_bytes`; `received` of them in `received_bytes` by this command.

    `unfinished` artefacts have no more rows at the URL; `longer` ones have more in the folder, because a pool grew
    there, and stay. `being_pushed`: a push is under way there, or was broken off, that only adds; what was whole before
    it was pulled.
    """

    url: str
    store: str
    artefacts: tuple[str, ...]
    files: int
    size_bytes: int
    received: int
    received_bytes: int
    unfinished: dict[str, str]
    longer: tuple[str, ...]
    being_pushed: bool
    dry_run: bool = False


def pull(
    url: str, store_path: str | Path, *, force: bool = False, dry_run: bool = False, progress: Progress | None = None
) -> PullResult:
    """Copy the store at `url` into the folder `store_path`, new or pulled before; a second call goes on.

    What the folder has and the URL has not stays; of a pool that grew at the URL only the new rows are brought. With
    `force` an artefact that was made with other settings is replaced. `dry_run` only compares.

    Raises:
        IncompleteError: there is no store at the URL, or it is half pushed.
        SpecError: the folder is another store, or has an artefact of the same name with other settings.
        BusyError: a run that is to be pulled is being trained in the folder.
        NtkselError: a file differs from its digest, the disk has no room, or access is refused.
    """
    progress = progress or Silent()
    place = Place.of(url)
    if (other := remote_url(store_path)) is not None:
        raise UsageError(f"{other} is a URL; a store is pulled into a folder.", "Give a folder.")
    manifest = require_manifest(place)
    being_pushed = place.read(BEGUN) is not None
    if being_pushed:
        progress.note(f"{place.url}: a push is under way or was broken off; what was whole before it is pulled")
    work = _Pull(place, manifest, Path(home(store_path)), force=force, dry_run=dry_run)
    return work.run(progress, being_pushed=being_pushed)


@dataclass(frozen=True, slots=True)
class _Job:
    """Files that appear together: a part, with its artefact and number; or one file."""

    files: tuple[str, ...]
    artefact: store.Artefact | None = None
    part: int | None = None


@dataclass(slots=True)
class _Pull:
    """One pull."""

    place: Place
    manifest: Manifest
    path: Path
    force: bool
    dry_run: bool
    received: int = 0
    received_bytes: int = 0
    longer: tuple[str, ...] = ()
    lock: threading.Lock = field(default_factory=threading.Lock)
    entries: dict[str, FileEntry] = field(default_factory=dict)

    def run(self, progress: Progress, *, being_pushed: bool) -> PullResult:
        """Look at the folder, bring documents, then parts, then adapters, their seals last."""
        self.entries = self.manifest.files()
        stored = store.Store.open(self.path) if (self.path / STORE_FILE).exists() else None
        replaced = [] if stored is None else self._replaced(stored)
        if self.dry_run:
            for path in self.entries:
                self._count(path)
            return self._result(being_pushed)
        self._refuse_without_room()
        if stored is None:
            stored = transfer.receive_header(self.path, self._bring(STORE_FILE))
            self._refuse_other_store(stored)
        for name in replaced:
            stored.remove(name)
        with ExitStack() as held:
            for name in self.manifest.units:
                if name.startswith(_ADAPTERS):
                    held.enter_context(alone(stored.folder(*name.split("/"))))
            self._bring_units(stored, progress)
        return self._result(being_pushed)

    def _replaced(self, stored: store.Store) -> list[str]:
        """Artefacts of the folder that are replaced by those of the URL, with `force`.

        Those that grew at the URL are not among them; those that grew in the folder are not pulled.
        """
        self._refuse_other_store(stored)
        units = {name: unit for name, unit in self.manifest.units.items() if layout.is_artefact(name)}
        found = {name: have for name in units if (have := stored.find(name)) is not None}
        differ = [have for name, have in found.items() if have.fingerprint != units[name].fingerprint]
        longer = longer_here(self.manifest, differ)
        self.longer = tuple(longer)
        self.manifest = replace(self.manifest, units={k: v for k, v in self.manifest.units.items() if k not in longer})
        self.entries = self.manifest.files()
        differ = [each for each in differ if each.name not in longer]
        grown = longer_there(self.place, self.manifest, differ)
        other = [each.name for each in differ if each.name not in grown]
        if other and not self.force:
            raise SpecError(
                f"{self.path} has {listed(other)} made with other settings than at {self.place.url}.",
                "Pull into another folder, or replace them here: --force.",
            )
        return other

    def _refuse_other_store(self, stored: store.Store) -> None:
        if stored.id != self.manifest.store:
            raise SpecError(
                f"{self.path} is another store ({stored.id[:8]}...) than the one at {self.place.url} "
                f"({self.manifest.store[:8]}...).",
                "Give another folder.",
            )

    def _bring_units(self, stored: store.Store, progress: Progress) -> None:
        first: list[_Job] = []
        last: list[_Job] = []
        sizes = [entry.size for entry in self.entries.values()]
        progress.start(f"pull from {self.place.url}", total=total_kilobytes(sizes), unit="kB")
        try:
            for name, unit in self.manifest.units.items():
                if layout.is_artefact(name):
                    first += self._parts(stored, name, unit, progress)
                elif name == HEADER:
                    progress.advance(total_kilobytes(entry.size for entry in unit.files.values()))
                else:
                    for path in unit.files:
                        (last if comes_last(path) else first).append(_Job((path,)))
            for_each(self._settle, first, progress)
            for_each(self._settle, last, progress)
        finally:
            progress.stop()

    def _parts(self, stored: store.Store, name: str, unit: Unit, progress: Progress) -> list[_Job]:
        """Make the artefact from its documents, if it is not there; its parts, to be brought."""
        folder = _folder(stored, name)
        numbered: dict[int, list[str]] = {}
        documents = []
        for path in unit.files:
            if transfer.is_record(path) or transfer.is_chunk(path):
                number = path.removeprefix(f"{folder}/").split("/")[2]
                numbered.setdefault(int(number), []).append(path)
            else:
                documents.append(path)
        if (have := stored.find(name)) is None:
            transfer.receive_documents(stored, name, {path: self._bring(path) for path in documents})
        elif have.fingerprint != unit.fingerprint:  # it grew at the URL
            whole = [paths for paths in numbered.values() if all(map(self._is_here, paths))]
            keep = [path for paths in whole for path in paths]
            transfer.receive_longer(stored, name, {path: self._bring(path) for path in documents}, keep)
        progress.advance(total_kilobytes(self.entries[path].size for path in documents))
        artefact = stored.get(name)
        return [_Job(tuple(sorted(paths)), artefact, i) for i, paths in sorted(numbered.items())]

    def _settle(self, job: _Job) -> int:
        """Bring the files of a job that are missing or differ; returns its kB."""
        size = sum(kilobytes(self.entries[path].size) for path in job.files)
        if job.artefact is None or job.part is None:
            if not self._is_here(job.files[0]):
                self._bring_file(job.files[0])
            return size
        missing = [path for path in job.files if not self._is_here(path)]
        if missing:
            root, record = self.path, next(path for path in job.files if transfer.is_record(path))
            files = {root / path: self._bring(path) for path in {*missing, record}}
            transfer.receive_part(job.artefact, job.part, files)
        return size

    def _is_here(self, path: str) -> bool:
        """Whether the folder has this file with this content."""
        file, entry = self.path / path, self.entries[path]
        try:
            if file.stat().st_size != entry.size:
                return False
            with file.open("rb") as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()[:DIGITS] == entry.sha256
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _bring(self, path: str) -> bytes:
        """A file's content, compared with its digest."""
        entry = self.entries[path]
        data = entry.content if entry.content is not None else self.place.read(path)
        if data is None or hashlib.sha256(data).hexdigest()[:DIGITS] != entry.sha256:
            raise self._differs(path, data is None)
        self._count_received(entry)
        return data

    def _bring_file(self, path: str) -> None:
        """A file that is no part of an artefact, through a temporary one, durable."""
        file, temp = self.path / path, store.Store.open(self.path).tmp_path()
        atomic.make_folder(file.parent)
        found = self.place.download(path, temp)
        try:
            if found:
                with temp.open("rb") as opened:
                    found = hashlib.file_digest(opened, "sha256").hexdigest()[:DIGITS] == self.entries[path].sha256
                    os.fsync(opened.fileno())
            if not found:
                raise self._differs(path, not temp.exists())
            os.replace(temp, file)
        finally:
            temp.unlink(missing_ok=True)
        atomic.sync_folder(file.parent)
        self._count_received(self.entries[path])

    def _differs(self, path: str, is_gone: bool) -> NtkselError:
        why = "is gone" if is_gone else "differs from its digest in the manifest"
        if self.place.read(BEGUN) is not None:
            return BusyError(
                f"{self.place.url}/{path} {why}: a push to it is under way, or was broken off.",
                "Pull again when that push has ended.",
            )
        return NtkselError(
            f"{self.place.url}/{path} {why}.",
            f"Push it again where the store is: `ntksel push STORE {self.place.url}`.",
        )

    def _count_received(self, entry: FileEntry) -> None:
        with self.lock:
            self.received += 1
            self.received_bytes += entry.size

    def _count(self, path: str) -> None:
        """Of a dry run: what would be brought."""
        if not self._is_here(path):
            self._count_received(self.entries[path])

    def _refuse_without_room(self) -> None:
        there = next(each for each in (self.path, *self.path.absolute().parents) if each.is_dir())
        missing = (e.size for path, e in self.entries.items() if not (self.path / path).exists())
        needed, free = sum(missing), store.free_bytes(there)
        if needed > free:
            raise NtkselError(
                f"The store needs {human_bytes(needed)} more and the disk of {there} has {human_bytes(free)} left.",
                "Make room, or give a folder on another disk.",
            )

    def _result(self, being_pushed: bool) -> PullResult:
        units = {name: unit for name, unit in self.manifest.units.items() if layout.is_artefact(name)}
        return PullResult(
            url=self.place.url,
            store=str(self.path),
            artefacts=tuple(units),
            files=len(self.entries),
            size_bytes=sum(entry.size for entry in self.entries.values()),
            received=self.received,
            received_bytes=self.received_bytes,
            unfinished={n: f"{u.rows_done} of {u.rows} rows" for n, u in units.items() if u.rows_done < u.rows},
            longer=self.longer,
            being_pushed=being_pushed,
            dry_run=self.dry_run,
        )


def _folder(stored: store.Store, name: str) -> str:
    """The folder of an artefact by its path in the store."""
    return stored.artefact_path(name).relative_to(stored.path).as_posix()
