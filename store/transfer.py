"""What of a store can be copied elsewhere, and putting such copies into another store. Knows no place but a disk.

A unit is copied by itself: an artefact, a folder beside the arrays, or the store's header. Of an artefact these are its
documents and its finished parts, a part's record after its chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from google_crc32c import value as crc32c

from store import atomic, chunks, header, locks
from store.artefact import Artefact
from store.documents import COPY
from store.errors import DamagedError, StoreError
from store.fix import fix, repairing
from store.header import COPY as HEADER_COPY
from store.layout import ARRAYS, LOCK, NODE_FILE, RECORDS, STORE_FILE, TMP
from store.root import Store
from store.scratch import Scratch

_RECORD_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """Files that appear together, as paths in the store: a part's chunks, then its record; or documents (part None)."""

    files: tuple[str, ...]
    part: int | None = None


def header_files(store: Store) -> list[str]:
    """The store's own documents: its header with the copy, and the groups above the artefacts."""
    found = [STORE_FILE, "/".join(HEADER_COPY)]
    folders = {Path(ARRAYS)}
    for name in store.names():
        folders |= {Path(ARRAYS, *name.split("/")[:depth]) for depth in range(1, name.count("/") + 1)}
    found += [(folder / NODE_FILE).as_posix() for folder in sorted(folders)]
    return [each for each in found if (store.path / each).is_file()]


def pieces(store: Store, artefact: Artefact) -> Iterator[Piece]:
    """The documents of an artefact, then each of its finished parts."""
    root = artefact.path.relative_to(store.path)
    documents = [NODE_FILE, COPY, f"{RECORDS}/{NODE_FILE}"]
    documents += [f"{array}/{NODE_FILE}" for array in artefact.array_names()]
    yield Piece(tuple((root / each).as_posix() for each in documents if (artefact.path / each).is_file()))
    tails = {array: "/".join("0" for _ in spec.tail) for array, spec in artefact.arrays.items()}
    for i, is_done in enumerate(artefact.done()):
        if is_done:
            names = [f"{array}/c/{i}/{tail}".rstrip("/") for array, tail in tails.items()]
            yield Piece(tuple((root / each).as_posix() for each in (*names, f"{RECORDS}/c/{i}")), i)


def is_chunk(path: str) -> bool:
    """Whether a file of `pieces` is a chunk of an array."""
    return "/c/" in path and not is_record(path)


def is_record(path: str) -> bool:
    """Whether a file of `pieces` is the record of a part."""
    return f"/{RECORDS}/c/" in path


def refuse_damaged_chunk(store: Store, path: str, data: bytes | memoryview) -> None:
    """DamagedError unless the bytes of a chunk end in their checksum."""
    end = len(data) - chunks.CRC_BYTES
    if end < 0 or bytes(data[end:]) != crc32c(bytes(data[:end])).to_bytes(chunks.CRC_BYTES, "little"):
        how = fix("run ", repairing(store.path), ", which shows the command that redoes that part")
        raise DamagedError(f"{store.path / path} is damaged: its checksum does not match its bytes", how)


def receive_header(path: Path, data: bytes) -> Store:
    """The store at `path` with the header that another store has; made there if there is nothing or an empty folder.

    NoStoreError, and nothing written, if the folder holds other things; StoreError if it is another store.
    """
    header.adopt(path, Scratch(path / TMP), data)
    store = Store.open(path)
    header.ensure_copy(path, store.said, temp=store.tmp_path)
    return store


def receive_documents(store: Store, name: str, documents: Mapping[str, bytes]) -> Artefact:
    """The artefact `name`, made with no part done if it is not there; `documents`: path in the store -> bytes."""
    if (found := store.find(name)) is not None:
        return found
    built, final = store.tmp_path(), store.artefact_path(name)
    for path, data in documents.items():
        atomic.write_draft(built / (store.path / path).relative_to(final), data)
    store.make_groups(name)
    atomic.publish_dir(built, final)
    return store.get(name)


def receive_longer(store: Store, name: str, documents: Mapping[str, bytes], keep: Iterable[str]) -> Artefact:
    """The artefact `name` with more rows, in the place of the one that is there; files of that one to `keep` stay.

    `documents`: path in the store -> bytes; `keep` are chunks and records, of whole parts.
    """
    built, final = store.tmp_path(), store.artefact_path(name)
    with atomic.locked(final):
        for path, data in documents.items():
            atomic.write_draft(built / (store.path / path).relative_to(final), data)
        for path in keep:
            atomic.link_draft(store.path / path, built / (store.path / path).relative_to(final))
        atomic.replace_dir(built, final)
    return store.get(name)


def receive_part(artefact: Artefact, i: int, files: Mapping[Path, bytes]) -> None:
    """Put part `i` in its place: chunks, durable, then the record. Replaces what is there."""
    record = artefact.path / RECORDS / "c" / str(i)
    if record not in files or len(files[record]) != _RECORD_BYTES:
        raise StoreError(f"part {i} of {artefact.name} came without its record", "copy it again")
    with atomic.Batch(artefact.path, artefact.fresh) as data, atomic.Batch(artefact.path, artefact.fresh) as last:
        for path, content in files.items():
            (last if path == record else data).add(path, [content])
        data.settle()
        last.settle()
        with locks.held(artefact.path / RECORDS / LOCK):
            if record.is_file() and record.read_bytes() != files[record]:
                artefact.forget_part(i)
            data.publish()
            last.publish()
