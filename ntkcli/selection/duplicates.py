"""Texts that say the same: normalised words, n-grams as hashes, and MinHash to find near-duplicates. Pure strings."""

from __future__ import annotations

import hashlib
import re
import zlib
from array import array
from collections.abc import Iterable
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from ntkcli.selection.bands import Bands, Keys
from ntkcli.selection.kept import DIGEST_BYTES, KeptHashes

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


class Signatures:
    """MinHash signatures of texts, as a number for each band: of texts that meet in a band it is the same."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self._a = draw.integers(1, int(_PRIME), (BANDS * BAND_ROWS, 1), dtype=np.uint64)
        self._b = draw.integers(0, int(_PRIME), (BANDS * BAND_ROWS, 1), dtype=np.uint64)
        self._mix = draw.integers(1, 1 << 62, BAND_ROWS, dtype=np.uint64) | np.uint64(1)

    def keys(self, shingles: Hashes) -> Keys:
        """The number of each band (BANDS,)."""
        signature = np.full(BANDS * BAND_ROWS, _PRIME, dtype=np.uint64)
        small = _below_prime(shingles)
        for low in range(0, len(small), SHINGLES_AT_ONCE):
            hashed = _below_prime(self._a * small[low : low + SHINGLES_AT_ONCE] + self._b)
            np.minimum(signature, hashed.min(axis=1), out=signature)
        mixed = (signature.reshape(BANDS, BAND_ROWS) * self._mix).sum(axis=1, dtype=np.uint64)
        keys: Keys = ((mixed ^ (mixed >> np.uint64(29))) * _ODD >> np.uint64(32)).astype(np.uint32)
        return keys


class NearDuplicates:
    """Texts seen so far, by MinHash bands; a meeting in a band is checked by the exact Jaccard similarity.

    Shingles whose hashes are `ignored` don't count. A text that has no others is like no text. Memory: 400 bytes a text
    for the bands, and 8 for each shingle.
    """

    def __init__(self, *, ignored: Hashes | None = None) -> None:
        self._ignored = np.zeros(0, dtype=np.uint64) if ignored is None else ignored
        self._shingles = _Shingles()
        self._bands = Bands(BANDS)
        self._signatures = Signatures()

    def find(self, text: str) -> int | None:
        """The first text added, by number, that this is a near-duplicate of, or None."""
        shingles = self._of(text)
        if not len(shingles):
            return None
        meeting = self._bands.meeting(self._signatures.keys(shingles))
        return next((i for i in meeting if jaccard(self._shingles[i], shingles) >= NEAR), None)

    def add(self, text: str) -> None:
        """Remember a text; it gets the next number."""
        if len(shingles := self._of(text)):
            keys = self._signatures.keys(shingles)
        else:  # like no text: a key of its own, so that such texts make no chain
            keys = np.full(BANDS, len(self._shingles) * int(_ODD) >> 32 & 0xFFFFFFFF, dtype=np.uint32)
        self._shingles.append(shingles)
        self._bands.add(keys)

    def _of(self, text: str) -> Hashes:
        return without(gram_hashes(normalised(text), SHINGLE_WORDS), self._ignored)


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


def first_of_each(
    texts: Iterable[tuple[int, str]], order: Iterable[int], *, near: bool
) -> tuple[list[int], list[tuple[int, int]]]:
    """The rows that stay, in the `order` given, and (row, the row it repeats) of the others.

    Repeats are texts with the same words or, if `near`, with a Jaccard similarity of at least NEAR. The `texts` are of
    (row, text), rows ascending; of `order` those without a text are passed over. Memory: 8 bytes a text; 400 for one
    that stays, if `near`.
    """
    rows, known = array("q"), _NearKept() if near else _ExactKept()
    for row, text in texts:
        rows.append(row)
        known.read(text)
    number = np.array(rows, dtype=np.int64)
    kept: list[int] = []
    repeats: list[tuple[int, int]] = []
    for row in order:
        at = int(np.searchsorted(number, row))
        if at == len(number) or number[at] != row:
            continue
        first = known.first(at)
        if first == at:
            kept.append(row)
        else:
            repeats.append((row, int(number[first])))
    return kept, repeats


class _ExactKept:
    """Texts by their words; `first` is asked for text after text, and gives the earlier one with the same words."""

    def __init__(self) -> None:
        self._digests: list[bytes] = []
        self._first: dict[bytes, int] = {}

    def read(self, text: str) -> None:
        self._digests.append(hashlib.blake2b(exact_key(text).encode(), digest_size=DIGEST_BYTES).digest())

    def first(self, number: int) -> int:
        return self._first.setdefault(self._digests[number], number)


class _NearKept:
    """As `_ExactKept`, by near-duplicates: the earlier text is one that was like none before it."""

    def __init__(self) -> None:
        self._shingles, self._bands, self._signatures = KeptHashes(), Bands(BANDS), Signatures()
        self._kept = array("q")

    def read(self, text: str) -> None:
        self._shingles.append(gram_hashes(normalised(text), SHINGLE_WORDS))

    def first(self, number: int) -> int:
        if not len(shingles := self._shingles[number]):
            return number
        keys = self._signatures.keys(shingles)
        for at in self._bands.meeting(keys):
            if jaccard(self._shingles[self._kept[at]], shingles) >= NEAR:
                return self._kept[at]
        self._bands.add(keys)
        self._kept.append(number)
        return number


def without(shingles: Hashes, ignored: Hashes) -> Hashes:
    """The sorted hashes that are not `ignored`."""
    return np.setdiff1d(shingles, ignored, assume_unique=True) if len(ignored) else shingles


def _hashes(data: bytes, start: list[int], stop: list[int]) -> list[int]:
    """A hash of each piece of the text, in both directions; slices of one reversed text are what makes it fast."""
    back, size, crc, adler = data[::-1], len(data), zlib.crc32, zlib.adler32
    return [
        crc(data[low:high]) << 32 | adler(piece := back[size - high : size - low], crc(piece))
        for low, high in zip(start, stop, strict=True)
    ]


def jaccard(a: Hashes, b: Hashes) -> float:
    """How alike two sets are, 0 to 1: sorted hashes without repeats."""
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
