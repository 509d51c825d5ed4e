"""Texts that say the same: normalised words, n-grams as hashes, and MinHash to find near-duplicates. Pure strings."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from ntkcli.selection.bands import Bands, Keys

Hashes = NDArray[np.uint64]

SHINGLE_WORDS = 3
"""Words of a shingle: short enough that one changed word of a question leaves most of them."""
NEAR = 0.8
"""Jaccard similarity of the shingles from which two texts are near-duplicates, as is common (e.g. The Pile's)."""
BANDS, BAND_ROWS = 32, 5
"""Of the MinHash signature: two texts of Jaccard 0.8 meet in some band with probability 0.99999, of 0.5 with 0.64."""
_WORD = re.compile(r"\w+")
_BITS = np.uint64(31)
_PRIME = np.uint64((1 << 31) - 1)
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: spreads numbers that are near each other
SHINGLES_AT_ONCE = 4096
"""Of a signature: what a hash of each takes stays in a core's cache, however long the text is."""
SHINGLES_KEPT = 1 << 19
"""Of an array that holds many texts' shingles: 4 MiB."""


def normalised(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation: what counts when texts are compared."""
    return _WORD.findall(text.lower())


def gram_hashes(words: list[str], size: int) -> Hashes:
    """Distinct 64-bit hashes of the runs of `size` words; of all words together where there are fewer; none of none."""
    if not words:
        return np.zeros(0, dtype=np.uint64)
    text = " ".join(words)
    lengths = [len(word) for word in words] if text.isascii() else [len(word.encode()) for word in words]
    start = [0, *(stop + 1 for stop in accumulate(lengths, lambda stop, length: stop + 1 + length))]
    data, size = text.encode(), min(size, len(words))
    found = _hashes(data, start[: len(words) - size + 1], [low - 1 for low in start[size:]])
    return np.unique(np.array(found, dtype=np.uint64))


def exact_key(text: str) -> str:
    """The same for texts with the same words."""
    return " ".join(normalised(text))


class NearDuplicates:
    """Texts seen so far, by MinHash bands; a meeting in a band is checked by the exact Jaccard similarity.

    Shingles whose hashes are `ignored` don't count. A text that has no others is like no text. Memory: 400 bytes a text
    for the bands, and 8 for each shingle.
    """

    def __init__(self, *, ignored: Hashes | None = None) -> None:
        self._ignored = ignored
        self._shingles = _Shingles()
        self._bands = Bands(BANDS)
        draw = np.random.default_rng(0)
        self._a = draw.integers(1, int(_PRIME), (BANDS * BAND_ROWS, 1), dtype=np.uint64)
        self._b = draw.integers(0, int(_PRIME), (BANDS * BAND_ROWS, 1), dtype=np.uint64)
        self._mix = draw.integers(1, 1 << 62, BAND_ROWS, dtype=np.uint64) | np.uint64(1)
        self._last: tuple[str, Hashes, Keys] | None = None

    def find(self, text: str) -> int | None:
        """The first text added, by number, that this is a near-duplicate of, or None."""
        return next(self.like(text), None)

    def like(self, text: str, *, skip: Callable[[int], bool] = lambda _: False) -> Iterator[int]:
        """All texts added, by number and ascending, that this is a near-duplicate of.

        Those that `skip` is true of are passed over; it is asked right before a comparison.
        """
        shingles, keys = self._of(text)
        if not len(shingles):
            return
        for i in self._bands.meeting(keys):
            if not skip(i) and _jaccard(self._shingles[i], shingles) >= NEAR:
                yield i

    def add(self, text: str) -> None:
        """Remember a text; it gets the next number."""
        shingles, keys = self._of(text)
        if not len(shingles):  # like no text: a key of its own, so that such texts make no chain
            keys = np.full(BANDS, len(self._shingles) * int(_ODD) >> 32 & 0xFFFFFFFF, dtype=np.uint32)
        self._shingles.append(shingles)
        self._bands.add(keys)

    def _of(self, text: str) -> tuple[Hashes, Keys]:
        """The text's shingles and its bands' keys; those of the last text are kept, which is often added then."""
        if self._last is None or self._last[0] is not text:
            shingles = gram_hashes(normalised(text), SHINGLE_WORDS)
            if self._ignored is not None:
                shingles = np.setdiff1d(shingles, self._ignored, assume_unique=True)
            self._last = (text, shingles, self._keys(shingles))
        return self._last[1:]

    def _keys(self, shingles: Hashes) -> Keys:
        """A number for each band of the signature (BANDS,): of texts that meet in a band it is the same."""
        signature = np.full(BANDS * BAND_ROWS, _PRIME, dtype=np.uint64)
        small = _below_prime(shingles)
        for low in range(0, len(small), SHINGLES_AT_ONCE):
            hashed = _below_prime(self._a * small[low : low + SHINGLES_AT_ONCE] + self._b)
            np.minimum(signature, hashed.min(axis=1), out=signature)
        mixed = (signature.reshape(BANDS, BAND_ROWS) * self._mix).sum(axis=1, dtype=np.uint64)
        keys: Keys = ((mixed ^ (mixed >> np.uint64(29))) * _ODD >> np.uint64(32)).astype(np.uint32)
        return keys


class _Shingles:
    """The shingles of texts by number, one after the other in large arrays."""

    def __init__(self) -> None:
        self._arrays: list[Hashes] = []
        self._used = 0
        self._places: list[tuple[int, int, int]] = []

    def append(self, shingles: Hashes) -> None:
        """Of the next text."""
        size = len(shingles)
        if not self._arrays or self._used + size > len(self._arrays[-1]):
            self._arrays.append(np.empty(max(size, SHINGLES_KEPT), dtype=np.uint64))
            self._used = 0
        self._arrays[-1][self._used : self._used + size] = shingles
        self._places.append((len(self._arrays) - 1, self._used, self._used + size))
        self._used += size

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Hashes:
        which, start, stop = self._places[number]
        return self._arrays[which][start:stop]


def first_of_each(texts: Iterable[tuple[int, str]], *, near: bool) -> tuple[list[int], list[tuple[int, int]]]:
    """The rows that stay, in the order given, and (row, the row it repeats) of the others.

    Repeats are texts with the same words or, if `near`, with a Jaccard similarity of at least NEAR.
    """
    kept: list[int] = []
    repeats: list[tuple[int, int]] = []
    known: dict[str, int] = {}
    index = NearDuplicates()
    for row, text in texts:
        if near:
            at = index.find(text)
            if at is None:
                index.add(text)
        else:
            at = known.setdefault(exact_key(text), len(kept))
            at = None if at == len(kept) else at
        if at is None:
            kept.append(row)
        else:
            repeats.append((row, kept[at]))
    return kept, repeats


def _hashes(data: bytes, start: list[int], stop: list[int]) -> list[int]:
    """A hash of each piece of the text, in both directions; slices of one reversed text are what makes it fast."""
    back, size, crc, adler = data[::-1], len(data), zlib.crc32, zlib.adler32
    return [
        crc(data[low:high]) << 32 | adler(piece := back[size - high : size - low], crc(piece))
        for low, high in zip(start, stop, strict=True)
    ]


def _jaccard(a: Hashes, b: Hashes) -> float:
    """Of sorted hashes without repeats."""
    if min(len(a), len(b)) < NEAR * max(len(a), len(b)):  # it is at most the ratio of the sizes
        return 0.0
    at = np.searchsorted(b, a)
    common = int((b[np.minimum(at, len(b) - 1)] == a).sum())
    return common / max(1, len(a) + len(b) - common)


def _below_prime(numbers: Hashes) -> Hashes:
    """Modulo the prime 2^31 - 1, in shifts and sums, of numbers of up to 64 bits."""
    folded = (numbers & _PRIME) + (numbers >> _BITS)
    folded = (folded & _PRIME) + (folded >> _BITS)
    below: Hashes = np.minimum(folded, folded - _PRIME)  # of a smaller one the difference wraps around, to a large one
    return below
