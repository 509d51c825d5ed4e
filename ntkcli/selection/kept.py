"""What is kept of every text of a large set: digests in memory, hashes of its words on disk.

Files without a name, in the folder for temporary files (TMPDIR): they are gone with the process, however it ends.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import weakref
from array import array

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Ints = NDArray[np.int64]

DIGEST_BYTES = 16
"""Of a text: two of 10^7 meet with probability 1e-25."""
BUFFER_BYTES = 1 << 20


class KeptHashes:
    """Sorted hashes of texts 0, 1, ... on disk. Memory: 8 bytes a text."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=BUFFER_BYTES)  # noqa: SIM115  (closed with its owner)
        weakref.finalize(self, self._file.close)
        self._ends, self._is_written = array("q", [0]), True

    def append(self, hashes: Hashes) -> None:
        """Of the next text."""
        self._file.write(hashes.tobytes())
        self._ends.append(self._ends[-1] + hashes.nbytes)
        self._is_written = False

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> Hashes:
        if not self._is_written:
            self._file.flush()
            self._is_written = True
        start, stop = self._ends[number], self._ends[number + 1]
        return np.frombuffer(os.pread(self._file.fileno(), stop - start, start), dtype=np.uint64)


class Digests:
    """Digests of texts 0, 1, ..., to find those that are equal. Memory: 16 bytes a text, and 50 while it looks."""

    def __init__(self) -> None:
        self._data = bytearray()

    def append(self, text: str | None) -> None:
        """Keep the next text; None is equal to nothing."""
        none = bytes(DIGEST_BYTES)
        self._data += none if text is None else hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()

    def __len__(self) -> int:
        return len(self._data) // DIGEST_BYTES

    @property
    def given(self) -> int:
        """How many are not None."""
        return int(self._halves().any(axis=1).sum())

    def repeated(self) -> tuple[Ints, Ints]:
        """The numbers (m,) of texts that stood before, ascending, and for each the first one that is equal."""
        halves = self._halves()
        number = np.flatnonzero(halves.any(axis=1))
        number = number[np.lexsort((number, halves[number, 1], halves[number, 0]))]
        again = np.zeros(len(number), dtype=np.bool_)
        again[1:] = (halves[number[1:]] == halves[number[:-1]]).all(axis=1)
        first = number[np.maximum.accumulate(np.where(again, 0, np.arange(len(number))))]
        order = np.argsort(number[again])
        return number[again][order], first[again][order]

    def _halves(self) -> NDArray[np.uint64]:
        return np.frombuffer(bytes(self._data), dtype=np.uint64).reshape(-1, 2)
