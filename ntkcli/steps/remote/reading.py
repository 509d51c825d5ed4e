"""Read a pushed store in place: its documents are brought at once, a chunk when it is read. Writes nothing there."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import store
from ntkcli.errors import NtkselError
from ntkcli.paths import remote_url
from ntkcli.progress import Progress, Silent
from ntkcli.steps.remote.manifest import BEGUN, DIGITS, FileEntry, require_manifest
from ntkcli.steps.remote.parallel import for_each, kilobytes, total_kilobytes
from ntkcli.steps.remote.place import Place
from ntkcli.steps.shared.commands import worded
from ntkcli.steps.shared.stores import open_store
from store import transfer


@contextmanager
def reading(reference: str | Path, progress: Progress | None = None) -> Iterator[store.Store]:
    """The store at a path or a URL, to read from; of a URL a temporary folder stands for it, gone afterwards.

    Every file there has its size, chunks without their bytes until they are read; all are compared with their digests.

    Raises:
        IncompleteError: the URL has no store, or a half-pushed one.
    """
    url = remote_url(reference)
    if url is None:
        yield open_store(reference)
        return
    place = Place.of(url)
    entries = require_manifest(place).files()
    if progress is not None and place.read(BEGUN) is not None:
        progress.note(f"{place.url}: a push is under way or was broken off; shown is what was whole before it")
    folder = Path(tempfile.mkdtemp(prefix="ntksel-remote-"))
    try:
        copy = _Copy(place, folder, entries)
        copy.prepare(progress or Silent())
        try:
            yield store.Store.open(folder, fetch=copy.fetch)
        except store.StoreError as error:
            raise _of_url(error, folder, place.url) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def as_shown(text: str, stored: store.Store, reference: str | Path) -> str:
    """A text that names the temporary folder of `reading`, with the URL instead."""
    url = remote_url(reference)
    return text if url is None else text.replace(str(stored.path), url)


class _Copy:
    """The temporary folder, and which of its chunks have their bytes."""

    def __init__(self, place: Place, folder: Path, entries: dict[str, FileEntry]) -> None:
        self._place, self._folder, self._entries = place, folder, entries
        self._empty = {path for path in entries if transfer.is_chunk(path)}
        self._lock = threading.Lock()

    def prepare(self, progress: Progress) -> None:
        """Bring the documents and seals; make chunks, and files that only a whole copy needs, by their size alone."""
        documents = []
        for path, entry in self._entries.items():
            file = self._folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if entry.content is not None:
                file.write_bytes(entry.content)
            elif path.endswith(".json"):
                documents.append(path)
            else:
                with file.open("wb") as made:
                    os.truncate(made.fileno(), entry.size)  # no block of the disk
        sizes = (self._entries[path].size for path in documents)
        progress.start(f"documents of {self._place.url}", total=total_kilobytes(sizes), unit="kB")
        try:
            for_each(self._bring, documents, progress)
        finally:
            progress.stop()

    def fetch(self, chunk: Path) -> None:
        """Bring the bytes of a chunk, unless they are here."""
        path = chunk.relative_to(self._folder).as_posix()
        with self._lock:
            if path in self._empty:
                self._bring(path)
                self._empty.remove(path)

    def _bring(self, path: str) -> int:
        entry, data = self._entries[path], self._place.read(path)
        if data is None or hashlib.sha256(data).hexdigest()[:DIGITS] != entry.sha256:
            why = "is gone" if data is None else "differs from its digest in the manifest"
            raise NtkselError(
                f"{self._place.url}/{path} {why}.",
                f"Push it again where the store is: `ntksel push STORE {self._place.url}`.",
            )
        (self._folder / path).write_bytes(data)
        return kilobytes(entry.size)


def _of_url(error: store.StoreError, folder: Path, url: str) -> store.StoreError:
    """The error with the URL instead of the temporary folder."""
    error.what = error.what.replace(str(folder), url)
    error.fix = worded(error.fix).replace(str(folder), url)
    return error
