"""The records of an artefact, its array `part`: one file of four bytes a finished part, written last."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from store import atomic
from store.layout import RECORDS

_RECORD_BYTES: Final = 4


class Records:
    """The digests of `n` parts; 0: not done. A file that is not four bytes vouches for nothing."""

    def __init__(self, artefact: Path, n: int) -> None:
        self.folder = artefact / RECORDS / "c"
        self.n = n

    def path(self, i: int) -> Path:
        """The file of part `i`."""
        return self.folder / str(i)

    @staticmethod
    def encode(digest: int) -> bytes:
        """The bytes of a record."""
        return digest.to_bytes(_RECORD_BYTES, "little")

    def read(self, i: int) -> int:
        """The record of part `i`; 0 if it is not done."""
        try:
            file = os.open(f"{self.folder}/{i}", os.O_RDONLY)  # called for every part that is read
        except FileNotFoundError:
            return 0
        try:
            data = os.read(file, _RECORD_BYTES + 1)
        finally:
            os.close(file)
        return int.from_bytes(data, "little") if len(data) == _RECORD_BYTES else 0

    def read_all(self) -> npt.NDArray[np.uint32]:
        """The records of all parts, (n,)."""
        records = np.zeros(self.n, np.uint32)
        try:
            entries = os.listdir(self.folder)
        except FileNotFoundError:
            return records
        for entry in entries:
            if entry.isdecimal() and int(entry) < self.n:
                records[int(entry)] = self.read(int(entry))
        return records

    def strays(self) -> list[tuple[Path, str]]:
        """Files that vouch for nothing, and why: not four bytes, a zero, or of a part that there is not."""
        found = []
        for path in sorted(self.folder.iterdir()) if self.folder.is_dir() else []:
            if not path.name.isdecimal() or int(path.name) >= self.n:
                found.append((path, f"is of no part: there are {self.n}"))
            elif not self.read(int(path.name)):
                found.append((path, f"is not the {_RECORD_BYTES} bytes of a digest"))
        return found

    def missing(self, parts: Iterable[int]) -> list[int]:
        """Those of `parts` that are not done."""
        return [i for i in parts if not self.read(i)]

    def forget(self, i: int) -> None:
        """Part `i` is not done."""
        atomic.remove_file(self.path(i))
