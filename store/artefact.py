"""An artefact: its attributes, and its rows by range, block or index. Never reads a row without a record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from store import atomic, attributes, chunks
from store.documents import Rows
from store.errors import DamagedError, StoreError
from store.layout import Kind
from store.parts import Parts
from store.scratch import Scratch
from store.spec import canonical_json

HEADS: Final = "heads"
"""The attribute that says which rows of pending parts are there from before the artefact grew (`store.growth`)."""

GREW: Final = "grew"
"""The attribute with the rows and the fingerprint that an artefact had before, each time that it grew."""


class Artefact(Parts):
    """One named result of a store, as it stands on disk. Made by `Store.create`, `find` and `get`."""

    def __init__(
        self,
        path: Path,
        name: str,
        attrs: dict[str, Any],
        scratch: Scratch,
        fetch: Callable[[Path], None] | None = None,
    ) -> None:
        n, part_rows, declared = attrs["n"], attrs["part_rows"], attributes.declared(attrs)
        super().__init__(path, name, n=n, part_rows=part_rows, scratch=scratch, declared=declared, fetch=fetch)
        self._attrs = attrs

    @classmethod
    def load(cls, path: Path, name: str, scratch: Scratch, fetch: Callable[[Path], None] | None = None) -> Self:
        """The artefact in the folder `path`; DamagedError if its attributes are no good."""
        return cls(path, name, attributes.read(path, name), scratch, fetch)

    def __repr__(self) -> str:
        return f"<Artefact {self.name}: {self.n} rows in {self.n_parts} parts>"

    @property
    def attrs(self) -> Mapping[str, Any]:
        """All attributes of the group."""
        return self._attrs

    @property
    def kind(self) -> Kind:
        """What it is."""
        return Kind(self._attrs["artefact"])

    @property
    def spec(self) -> dict[str, Any]:
        """Everything that can change a value in it."""
        return dict(self._attrs["spec"])

    @property
    def fingerprint(self) -> str:
        """The digest of the spec."""
        return str(self._attrs["fingerprint"])

    @property
    def parents(self) -> dict[str, str]:
        """The artefacts it was made from: path -> fingerprint at that time."""
        return dict(self._attrs["parents"])

    @property
    def plan(self) -> dict[str, Any]:
        """Settings that change speed and no value beyond float rounding."""
        return dict(self._attrs["plan"])

    def rows_before(self, fingerprint: str) -> int | None:
        """How many rows it had when it had this fingerprint, before it grew; None if it never had."""
        return next((int(each["n"]) for each in self._attrs.get(GREW, []) if each["fingerprint"] == fingerprint), None)

    def read(self, array: str, start: int = 0, stop: int | None = None) -> Rows:
        """Rows [start, stop) of `array`, as a slice would take them.

        IncompleteError if a part of them has no record; DamagedError if one fails its checksum.
        """
        self._spec(array)
        start, stop, _ = slice(start, stop).indices(self.n)
        self._need(self._touched(start, stop))
        return self._rows(array, start, max(start, stop))

    def blocks(self, arrays: Sequence[str], block_rows: int | None = None) -> Iterator[tuple[slice, dict[str, Rows]]]:
        """All rows in order, as (rows, arrays by name), at most `block_rows` at a time; by default a part.

        Memory is bounded by one block, or by one part where that is more, because a chunk is read whole.
        Errors as for `read`; an incomplete artefact is refused before the first block.
        """
        for array in arrays:
            self._spec(array)
        if block_rows is not None and block_rows < 1:
            raise StoreError(f"a block can't have {block_rows} rows", "give 1 or more")
        self.refuse_incomplete()
        return self._blocks(list(arrays), block_rows or self.part_rows)

    def read_part(self, array: str, i: int) -> Rows:
        """The rows of part `i`. Errors as for `read`."""
        self._spec(array)
        self._need([i])
        return self._part(array, i)

    def read_part_into(self, buffers: Mapping[str, Rows], i: int) -> dict[str, Rows]:
        """The rows of part `i` of several arrays, each in the first rows of its buffer, made by `empty_part`.

        Reading again and again into the same memory saves the kernel clearing fresh memory, which takes longer than
        copying a file that it holds already. Errors as for `read`.
        """
        start, stop = self.part_bounds(i)
        for array, out in buffers.items():
            spec = self._spec(array)
            fits = out.dtype == spec.numpy and out.shape[1:] == spec.tail and len(out) >= stop - start
            if not (fits and out.flags.c_contiguous):
                raise StoreError(
                    f"an array {out.shape} of {out.dtype} can't take part {i} of {self.name}",
                    f"give {(self.part_rows, *spec.tail)} of {spec.numpy}, C-contiguous",
                )
        self._need([i])
        found = {array: out[: stop - start] for array, out in buffers.items()}
        for array, rows in found.items():
            self._read_into(rows, array, i)
        return found

    def head(self, i: int) -> dict[str, Rows] | None:
        """The first rows of part `i`, which is not done, arrays by name: those from before the artefact grew.

        None if there are none, or if they are damaged: all rows of the part are to be computed then.
        """
        head = next((each for each in self._attrs.get(HEADS, []) if each["part"] == i), None)
        if head is None:
            return None
        try:
            part = {name: self._part(name, i)[: head["rows"]] for name in self.arrays}
        except DamagedError:
            return None
        return part if chunks.digest(part, self.arrays) == head["digest"] else None

    def empty_part(self, array: str) -> Rows:
        """An array that any part of `array` can be read into."""
        return chunks.empty(min(self.part_rows, self.n), self._spec(array))

    def take(self, array: str, rows: npt.ArrayLike) -> Rows:
        """The given rows of `array`, in their order, repeats allowed; each chunk is read once."""
        spec, index = self._spec(array), np.asarray(rows, dtype=np.int64)
        if index.size and not (index.min() >= 0 and index.max() < self.n):
            raise IndexError(f"rows {index.min()} to {index.max()} of {self.name}, which has {self.n}")
        out: Rows = np.empty((len(index), *spec.tail), spec.numpy)
        part_of = index // self.part_rows
        order = np.argsort(part_of, kind="stable")
        parts, first = np.unique(part_of[order], return_index=True)
        self._need(parts.tolist())
        for i, where in zip(parts.tolist(), np.split(order, first[1:]), strict=False):
            out[where] = self._part(array, i)[index[where] - i * self.part_rows]
        return out

    def digest(self) -> str:
        """32 hex digits over the fingerprint and all records: the same for runs that gave the same rows."""
        records = self._records.read_all().astype("<u4").tobytes()
        return hashlib.sha256(self.fingerprint.encode() + records).hexdigest()[:32]

    def size_bytes(self) -> int:
        """Bytes of all its files."""
        return atomic.folder_bytes(self.path)

    def note(self, **attrs: Any) -> None:
        """Add attributes that no value depends on, such as where a file was last seen."""
        if taken := attributes.RESERVED & attrs.keys():
            raise StoreError(f"{sorted(taken)} of {self.name} are fixed at creation", "use other attributes")
        merged = {**attributes.read(self.path, self.name), **attrs}
        merged = attributes.sealed(json.loads(canonical_json(merged)), self.name, self.arrays)
        attributes.write(self.path, merged, temp=self._scratch.fresh)
        self._attrs = merged

    def _touched(self, start: int, stop: int) -> range:
        """The parts that rows [start, stop) lie in."""
        if start >= stop:
            return range(0)
        return range(start // self.part_rows, (stop - 1) // self.part_rows + 1)

    def _rows(self, array: str, start: int, stop: int) -> Rows:
        out = chunks.empty(stop - start, self.arrays[array])
        for i in self._touched(start, stop):
            first, last = self.part_bounds(i)
            if start <= first and last <= stop:
                self._read_into(out[first - start : last - start], array, i)
            else:
                low, high = max(start, first), min(stop, last)
                out[low - start : high - start] = self._part(array, i)[low - first : high - first]
        return out

    def _blocks(self, arrays: list[str], block_rows: int) -> Iterator[tuple[slice, dict[str, Rows]]]:
        """Whole parts are read at once; where a block is shorter than a part, views of them are given."""
        read_rows = max(block_rows // self.part_rows, 1) * self.part_rows
        for start in range(0, self.n, read_rows):
            stop = min(start + read_rows, self.n)
            read = {array: self._rows(array, start, stop) for array in arrays}
            step = min(block_rows, read_rows)
            for low in range(start, stop, step):
                high = min(low + step, stop)
                yield (
                    slice(low, high),
                    {array: rows[low - start : high - start] for array, rows in read.items()},
                )
