"""Numbers in buckets that fit in memory for millions of texts: where the bands of MinHash signatures meet.

One hash table a band, in numpy arrays: buckets that hold the newest text of a chain, and for each text the one before
it. Memory: 384 bytes a text at most, with 32 bands. Knows nothing of texts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint32]
Numbers = NDArray[np.int32]

FIRST_ROOM = 1024
"""Texts that the first tables have room for; doubled when they are full."""


class Bands:
    """The keys of texts 0, 1, ... by band; `bands` keys each."""

    def __init__(self, bands: int) -> None:
        self._bands, self._n = np.arange(bands), 0
        self._keys: Keys = np.empty((FIRST_ROOM, bands), dtype=np.uint32)
        self._before: Numbers = np.empty((FIRST_ROOM, bands), dtype=np.int32)
        self._newest: Numbers = np.full((bands, FIRST_ROOM), -1, dtype=np.int32)

    def meeting(self, keys: Keys) -> list[int]:
        """The texts that have one of the keys (bands,) in its band, ascending, each once."""
        found: set[int] = set()
        bands, wanted = self._bands, keys
        at = self._newest[bands, self._buckets(keys)]
        while (there := at >= 0).any():
            at, bands, wanted = at[there], bands[there], wanted[there]
            found.update(at[self._keys[at, bands] == wanted].tolist())
            at = self._before[at, bands]
        return sorted(found)

    def add(self, keys: Keys) -> None:
        """Take in the next text."""
        if self._n == len(self._keys):
            self._double()
        buckets = self._buckets(keys)
        self._keys[self._n] = keys
        self._before[self._n] = self._newest[self._bands, buckets]
        self._newest[self._bands, buckets] = self._n
        self._n += 1

    def _buckets(self, keys: Keys) -> NDArray[np.int64]:
        return (keys & np.uint32(self._newest.shape[1] - 1)).astype(np.int64)

    def _double(self) -> None:
        """Twice the room, and all chains again, one band after the other."""
        room, n = 2 * self._n, self._n
        self._keys = np.concatenate([self._keys, np.empty_like(self._keys)])
        self._before = np.empty((room, len(self._bands)), dtype=np.int32)
        self._newest = np.full((len(self._bands), room), -1, dtype=np.int32)
        for band in self._bands.tolist():
            bucket = self._keys[:n, band] & np.uint32(room - 1)
            order = np.argsort(bucket, kind="stable").astype(np.int32)
            same = np.zeros(n, dtype=np.bool_)
            same[1:] = bucket[order[1:]] == bucket[order[:-1]]
            self._before[order, band] = np.where(same, np.concatenate([[-1], order[:-1]]), -1)
            self._newest[band, bucket[order]] = order  # of equal buckets the last one stays
