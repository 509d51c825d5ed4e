"""The parts of an artefact, one at a time: pending, write, record, read, verify. Knows nothing of specs.

Order of a write (docs/store-format.md): every chunk durable, then the record. Two writers of one part should write
the same bytes, each to its own temporary file; where a device rounds otherwise from run to run they don't. So chunks
and record are put in place under a lock, and a record stands for one writer's bytes alone.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from store import atomic, attributes, chunks, documents, locks
from store.documents import ArraySpec, Rows
from store.errors import DamagedError, IncompleteError, StoreError
from store.fix import fix, making, repairing
from store.layout import LOCK, NODE_FILE, RECORDS, n_parts, part_bounds, row_ranges, say_rows, store_of
from store.records import Records
from store.scratch import Scratch


class Parts:
    """Row-aligned arrays of `n` rows in parts of `part_rows`, in the folder `path`; messages say `name`."""

    def __init__(
        self,
        path: Path,
        name: str,
        *,
        n: int,
        part_rows: int,
        scratch: Scratch,
        declared: Mapping[str, ArraySpec] | None,
        fetch: Callable[[Path], None] | None = None,
    ) -> None:
        self.path = path
        self.name = name
        self.n = n
        self.part_rows = part_rows
        self.n_parts = n_parts(n, part_rows)
        self._scratch = scratch
        self._declared = declared
        self._fetch = fetch
        self._records = Records(path, self.n_parts)

    @functools.cached_property
    def arrays(self) -> Mapping[str, ArraySpec]:
        """What each array holds, by name; DamagedError if a description of one is no good."""
        return {name: self.read_document(name) for name in self.array_names()}

    def array_names(self) -> list[str]:
        """The arrays as declared, else as the folders say, in order."""
        if self._declared is not None:
            return sorted(self._declared)
        with os.scandir(self.path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and entry.name != RECORDS)

    def read_document(self, array: str) -> ArraySpec:
        """What the document of one array, or of the records, says; DamagedError if it is no good."""
        if array == RECORDS:
            return documents.read_records(self.path / RECORDS, self.name, self.n, self.part_rows)
        declared = None if self._declared is None else self._declared[array]
        return documents.read_array(self.path / array, self.name, self.n, self.part_rows, declared)

    def part_bounds(self, i: int) -> tuple[int, int]:
        """The rows [start, stop) of part `i`."""
        return part_bounds(i, self.n, self.part_rows)

    def done(self) -> npt.NDArray[np.bool_]:
        """Which parts are done, (n_parts,)."""
        return np.not_equal(self._records.read_all(), 0)

    @property
    def complete(self) -> bool:
        """Whether every part is done."""
        return bool(self.done().all())

    def rows_done(self) -> int:
        """How many rows are in finished parts."""
        bounds = (self.part_bounds(int(i)) for i in np.flatnonzero(self.done()))
        return sum(stop - start for start, stop in bounds)

    def refuse_incomplete(self) -> None:
        """IncompleteError if a part has no record."""
        self._need(range(self.n_parts))

    def pending(self, shard: tuple[int, int] = (0, 1)) -> list[int]:
        """The parts to do, ascending; of shard (i, of) those with part % of == i."""
        index, of = shard
        if not 0 <= index < of:
            raise StoreError(f"there is no shard {index} of {of}", f"count them from 0 to {max(of, 1) - 1}")
        return [int(i) for i in np.flatnonzero(~self.done()) if i % of == index]

    def recorded(self, i: int) -> int:
        """The digest of part `i`; 0 if it is not done."""
        return self._records.read(i)

    def chunk_files(self, i: int) -> list[Path]:
        """The chunks of part `i`, relative to the folder, in the order of the arrays."""
        return [self._chunk(name, i).relative_to(self.path) for name in self.arrays]

    def write_part(self, i: int, arrays: Mapping[str, Rows | Sequence[str]]) -> None:
        """Make the rows of part `i` durable and record it. All arrays, with their exact shape and dtype.

        To write a part again is fine.
        """
        part = self._checked(i, arrays)
        fresh = self._scratch.fresh
        with (
            atomic.Batch(self.path, fresh) as data,
            atomic.Batch(self.path, fresh) as record,
            ThreadPoolExecutor(1) as beside,  # the two checksums are what a write costs beside the disk
        ):
            digesting = beside.submit(chunks.digest, part, self.arrays)
            for name, rows in part.items():
                pieces = chunks.encode(rows, self.arrays[name], self.part_rows)
                data.add(self._chunk(name, i), pieces)
            digest = digesting.result()
            record.add(self._records.path(i), [self._records.encode(digest)])
            data.settle()
            record.settle()
            with locks.held(self.path / RECORDS / LOCK) as alone:
                if self._records.read(i) not in (0, digest):
                    self.forget_part(i)  # a record never vouches for bytes that are being replaced by others
                data.publish()
                record.publish()
            if not alone and not self._is_written(i, digest):
                self.forget_part(i)  # another writer's bytes are among ours: to be done again

    def _is_written(self, i: int, digest: int) -> bool:
        """Whether the bytes of part `i` on the disk have this digest."""
        try:
            return chunks.digest({name: self._part(name, i) for name in self.arrays}, self.arrays) == digest
        except DamagedError:
            return False

    def bytes_to_write(self, parts: Sequence[int]) -> int:
        """What the given parts will take on disk, in whole blocks; strings, whose length is not known, not counted."""
        block = os.statvfs(self.path).f_frsize or 1
        chunk_bytes = [
            spec.row_bytes * self.part_rows + chunks.CRC_BYTES for spec in self.arrays.values() if not spec.is_string
        ]
        return len(parts) * sum(-(-size // block) * block for size in [*chunk_bytes, block])  # and the record

    def fresh(self) -> Path:
        """A path for a file in flight, to be renamed to its place in the artefact."""
        return self._scratch.fresh()

    def forget_part(self, i: int) -> None:
        """Part `i` is not done: the fix for a damaged one."""
        self._records.forget(i)

    def stray_records(self) -> list[tuple[Path, str]]:
        """Files among the records that vouch for nothing, and why."""
        return self._records.strays()

    def verify_part(self, i: int) -> None:
        """Read all of part `i`; DamagedError if its bytes are not those that its record vouches for."""
        self._need([i])
        part = {name: self._part(name, i) for name in self.arrays}
        found, recorded = chunks.digest(part, self.arrays), self._records.read(i)
        if found != recorded:
            raise self._damaged(i, f"its digest is {found:08x}, its record says {recorded:08x}")

    def _checked(self, i: int, arrays: Mapping[str, Rows | Sequence[str]]) -> dict[str, Rows]:
        """The arrays of part `i`, C-contiguous, in the order of their names."""
        start, stop = self.part_bounds(i)
        if set(arrays) != set(self.arrays):
            what = f"part {i} of {self.name} came with the arrays {sorted(arrays)}"
            raise StoreError(what, f"give all of {sorted(self.arrays)} and no other")
        return {
            name: _checked_array(f"array {name} of {self.name}", arrays[name], spec, stop - start)
            for name, spec in self.arrays.items()
        }

    def _spec(self, array: str) -> ArraySpec:
        if array not in self.arrays:
            raise StoreError(f"{self.name} has no array {array!r}", f"ask for one of {sorted(self.arrays)}")
        return self.arrays[array]

    def _chunk(self, array: str, i: int) -> Path:
        return Path(self._chunk_path(array, i))

    def _chunk_path(self, array: str, i: int) -> str:
        return f"{self.path}/{array}/c/{i}{'/0' * len(self.arrays[array].tail)}"

    def _part(self, array: str, i: int) -> Rows:
        """The rows of part `i`, which must have a record."""
        start, stop = self.part_bounds(i)
        out = chunks.empty(stop - start, self.arrays[array])
        self._read_into(out, array, i)
        return out

    def _read_into(self, out: Rows, array: str, i: int) -> None:
        if self._fetch is not None:
            self._fetch(self._chunk(array, i))
        try:
            chunks.read_into(out, self._chunk_path(array, i), self.arrays[array], self.part_rows)
        except chunks.ChunkError as error:
            raise self._damaged(i, f"in array {array}, {error}") from error

    def _need(self, parts: Iterable[int]) -> None:
        """IncompleteError if one of `parts` has no record."""
        missing = self._records.missing(parts)
        if missing:
            rows = say_rows(row_ranges(missing, self.n, self.part_rows))
            what = f"{self.name} is not complete: {rows} of {self.n} are not done"
            raise IncompleteError(what, "run the same command again to finish it")

    def _damaged(self, i: int, why: str) -> DamagedError:
        start, stop = self.part_bounds(i)
        what = f"{self.name} is damaged: part {i} (rows {start}-{stop - 1}): {why}"
        repair, again = repairing(store_of(self.path)), making(store_of(self.path), self.name)
        how = fix("run ", repair, ", which forgets that part, and then ", again, " again, which redoes it")
        return DamagedError(what, how, artefact=self.name, part=i, rows=(start, stop))


def create_files(
    folder: Path, said: Mapping[str, Any], *, n: int, part_rows: int, arrays: Mapping[str, ArraySpec]
) -> None:
    """Write the documents of an artefact with no part done; durable only once the folder is published."""
    attributes.draft(folder, said)
    for name, document in documents.array_documents(arrays, n, part_rows).items():
        atomic.write_draft(folder / name / NODE_FILE, document)


def _checked_array(what: str, given: Rows | Sequence[str], spec: ArraySpec, rows: int) -> Rows:
    """`given`, C-contiguous; StoreError if its shape or dtype is not exactly the declared one."""
    array: Rows = np.asarray(given, dtype=object) if spec.is_string else np.asarray(given)
    if array.shape != (rows, *spec.tail):
        raise StoreError(f"{what} came with shape {array.shape}", f"give shape {(rows, *spec.tail)}")
    if array.dtype != spec.numpy:
        raise StoreError(f"{what} came with dtype {array.dtype}", f"give {spec.dtype}: the store never casts")
    if spec.is_string:
        try:
            "".join(array).encode()
        except (TypeError, UnicodeEncodeError) as error:
            raise StoreError(f"{what} holds something that is not a string in UTF-8 ({error})", "replace it") from error
    return np.ascontiguousarray(array)
