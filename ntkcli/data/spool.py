"""What a scan keeps of every row, on disk: ids in order, and their digests to find those that stand twice.

Files without a name: they are gone with the process, however it ends. Ten million rows with ids of their own take
about 0.4 GB of disk, and no more memory than one million.
"""

from __future__ import annotations

import hashlib
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import numpy as np
import numpy.typing as npt

_DIGEST_BYTES: Final = 16  # two of 10^7 ids meet with probability 1e-25
_LENGTH_BYTES: Final = 4
_BUFFER_BYTES: Final = 1 << 20
_AT_ONCE: Final = 1 << 18  # digests compared in one go, 25 MiB with what sorting takes

Rows = npt.NDArray[np.int64]


class RowIds:
    """The ids of the rows, "" for a bad one; read again and again, by one reader at a time."""

    def __init__(self, folder: Path | None = None) -> None:
        self._file, self._n = _unnamed(folder, owner=self), 0

    def __len__(self) -> int:
        return self._n

    def append(self, row_id: str) -> None:
        """Keep the next row's id."""
        data = row_id.encode()
        self._file.write(len(data).to_bytes(_LENGTH_BYTES, "little") + data)
        self._n += 1

    def __iter__(self) -> Iterator[str]:
        self._file.seek(0)
        for _ in range(self._n):
            length = int.from_bytes(self._file.read(_LENGTH_BYTES), "little")
            yield self._file.read(length).decode()


class OwnIds:
    """Digests of the ids that rows bring themselves."""

    def __init__(self, folder: Path | None = None) -> None:
        self._file, self._n = _unnamed(folder, owner=self), 0

    def append(self, own_id: str | None) -> None:
        """Keep the next row's own id; None if it has none, or can't be used."""
        none = bytes(_DIGEST_BYTES)
        digest = none if own_id is None else hashlib.blake2b(own_id.encode(), digest_size=_DIGEST_BYTES).digest()
        self._file.write(digest)
        self._n += 1

    def repeated(self) -> tuple[Rows, Rows]:
        """The rows (m,) whose id stood before, ascending, and for each the first row with that id.

        Reads all digests once for every 2**18 of them, and compares a share of them each time.
        """
        shares = max(1, -(-self._n // _AT_ONCE))
        found = [self._share(share, shares) for share in range(shares)]
        rows, firsts = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(rows)
        return rows[order], firsts[order]

    def _share(self, share: int, shares: int) -> tuple[Rows, Rows]:
        """As `repeated`, of the digests whose first half leaves `share` when divided by `shares`."""
        halves, at = [np.zeros((0, 2), dtype="<u8")], [np.zeros(0, dtype=np.int64)]
        for start, block in self._blocks():
            mine = np.flatnonzero(block.any(axis=1) & (block[:, 0] % np.uint64(shares) == share))
            halves.append(block[mine])
            at.append(mine + start)
        digest, row = np.concatenate(halves), np.concatenate(at)
        order = np.lexsort((row, digest[:, 1], digest[:, 0]))
        digest, row = digest[order], row[order]
        again = np.flatnonzero((digest[1:] == digest[:-1]).all(axis=1)) + 1
        is_first = np.ones(len(row), dtype=np.bool_)
        is_first[again] = False
        first = np.maximum.accumulate(np.where(is_first, np.arange(len(row)), 0)) if len(row) else row
        return row[again], row[first[again]]

    def _blocks(self) -> Iterator[tuple[int, npt.NDArray[np.uint64]]]:
        """The digests in order as (first row, (m, 2) halves)."""
        self._file.seek(0)
        for start in range(0, self._n, _AT_ONCE):
            data = self._file.read(min(_AT_ONCE, self._n - start) * _DIGEST_BYTES)
            yield start, np.frombuffer(data, dtype="<u8").reshape(-1, 2)


def _unnamed(folder: Path | None, *, owner: object) -> IO[bytes]:
    """A file in `folder` that is closed when its owner goes."""
    file = tempfile.TemporaryFile(dir=folder, buffering=_BUFFER_BYTES)  # noqa: SIM115  (its owner keeps it)
    weakref.finalize(owner, file.close)
    return file
