"""Rows that say the same, among many: the same words, nearly the same words, or the same long prompt.

Memory: some 100 bytes a row. On disk meanwhile (`ntkcli.selection.kept`): 8 bytes for each word and 128 a row. Pure
strings; must not know rows or files.
"""

from __future__ import annotations

import heapq
import os
import tempfile
import weakref
from collections.abc import Iterator
from itertools import islice
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ntkcli.progress import counted_below
from ntkcli.selection.bands import Keys
from ntkcli.selection.duplicates import (
    BANDS,
    NEAR,
    SHINGLE_WORDS,
    Hashes,
    Signatures,
    gram_hashes,
    jaccard,
    normalised,
    without,
)
from ntkcli.selection.kept import Digests, KeptHashes
from ntkcli.selection.likeness import SAMPLE_ROWS, comparable, key_of, most_common, order_in_sample, prompt_key
from ntkcli.selection.partition import Components

Ints = NDArray[np.int64]
_ROWS_AT_ONCE: Final = 1 << 14
"""Whose keys are written in one go, 2 MiB."""
_PAIRS_KEPT: Final = 1 << 19
"""Compared pairs that are remembered, 50 MiB: what is forgotten is compared again in the next band that they share."""


class Alike:
    """Rows 0, 1, ... by what they say."""

    def __init__(self) -> None:
        self._texts, self._prompts = Digests(), Digests()
        self._shingles = KeptHashes()
        self._sample: list[tuple[tuple[int, bytes], int]] = []  # of a row's text, and the row

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str, prompt: str | None) -> None:
        """Take in the next row: all that it says, and what comes before its answer."""
        plain = comparable(text)
        self._sample.append((order_in_sample(plain), len(self)))
        if len(self._sample) >= 2 * SAMPLE_ROWS:
            self._sample = heapq.nsmallest(SAMPLE_ROWS, self._sample)
        self._texts.append(key_of(text))
        self._prompts.append(prompt_key(prompt))
        self._shingles.append(gram_hashes(normalised(plain), SHINGLE_WORDS))

    def join(self, found: Components) -> None:
        """Join rows with the same words, near-duplicates (and theirs, and so on), and rows with one long prompt."""
        repeats, firsts = self._texts.repeated()
        _join_all(found, repeats, firsts)
        _join_all(found, *self._prompts.repeated())
        sample = [self._shingles[row] for _, row in heapq.nsmallest(SAMPLE_ROWS, self._sample)]
        rest = np.setdiff1d(np.arange(len(self)), repeats, assume_unique=True)
        _NearPairs(self._shingles, most_common(sample)).join(found, rest)


class _NearPairs:
    """Near-duplicates among texts whose shingles are kept: those that meet in a band are compared, band after band."""

    def __init__(self, shingles: KeptHashes, ignored: Hashes) -> None:
        self._kept, self._ignored = shingles, ignored
        self._other: set[tuple[int, int]] = set()  # pairs that were compared and differ

    def join(self, found: Components, rows: Ints) -> None:
        """Join those of the `rows` (ascending)."""
        keys = _KeysByBand()
        signatures = Signatures()
        there: list[Ints] = [np.zeros(0, dtype=np.int64)]
        stream = counted_below(rows.tolist(), "near-duplicates", len(rows))
        while block := list(islice(stream, _ROWS_AT_ONCE)):
            some = {row: shingles for row in block if len(shingles := self._of(row))}  # a text without any is like none
            if some:
                keys.append(np.stack([signatures.keys(shingles) for shingles in some.values()]))
                there.append(np.array(list(some), dtype=np.int64))
        rows = np.concatenate(there)
        for band in range(BANDS):
            for members in _meeting(keys.of(band)):
                self._join_members(found, rows[members].tolist())

    def _of(self, row: int) -> Hashes:
        return without(self._kept[row], self._ignored)

    def _join_members(self, found: Components, members: list[int]) -> None:
        """Join those that are alike, of rows that meet in a band. Rows in one component are not compared."""
        if len({found.root(row) for row in members}) == 1:
            return
        apart: dict[int, list[int]] = {}
        for row in members:
            own = apart.pop(found.root(row), [])
            for root, others in list(apart.items()):
                if any(self._is_near(other, row) for other in others):
                    own += apart.pop(root)
                    found.join(root, row)
            apart[found.root(row)] = [*own, row]

    def _is_near(self, one: int, other: int) -> bool:
        if (pair := (one, other)) in self._other:
            return False
        if jaccard(self._of(one), self._of(other)) >= NEAR:
            return True
        if len(self._other) >= _PAIRS_KEPT:
            self._other.clear()
        self._other.add(pair)
        return False


class _KeysByBand:
    """The keys of texts, on disk in blocks, each one band after the other: 128 bytes a text."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  (closed with its owner)
        weakref.finalize(self, self._file.close)
        self._sizes: list[int] = []

    def append(self, keys: Keys) -> None:
        """Of the next texts (b, BANDS)."""
        self._file.write(np.ascontiguousarray(keys.T).tobytes())
        self._file.flush()
        self._sizes.append(len(keys))

    def of(self, band: int) -> Keys:
        """The keys of all texts (n,) in a band."""
        blocks, start = [np.zeros(0, dtype=np.uint32)], 0
        for size in self._sizes:
            width = 4 * size
            blocks.append(np.frombuffer(os.pread(self._file.fileno(), width, start + band * width), dtype=np.uint32))
            start += BANDS * width
        return np.concatenate(blocks)


def _meeting(keys: Keys) -> Iterator[Ints]:
    """The places of each key that stands more than once, ascending."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(keys) else order
    sizes = np.diff(starts, append=len(keys))
    for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True):
        yield order[start : start + size]


def _join_all(found: Components, rows: Ints, firsts: Ints) -> None:
    for row, first in zip(rows.tolist(), firsts.tolist(), strict=True):
        found.join(row, first)
