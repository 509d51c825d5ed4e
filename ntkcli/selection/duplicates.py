"""Texts that say the same: normalised words, n-grams as hashes, and MinHash to find near-duplicates. Pure strings."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

SHINGLE_WORDS = 3
"""Words of a shingle: short enough that one changed word of a question leaves most of them."""
NEAR = 0.8
"""Jaccard similarity of the shingles from which two texts are near-duplicates, as is common (e.g. The Pile's)."""
BANDS, BAND_ROWS = 32, 5
"""Of the MinHash signature: two texts of Jaccard 0.8 meet in some band with probability 0.99999, of 0.5 with 0.64."""
_WORD = re.compile(r"\w+")
_PRIME = np.uint64((1 << 31) - 1)


def normalised(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation: what counts when texts are compared."""
    return _WORD.findall(text.lower())


def gram_hashes(words: list[str], size: int) -> Hashes:
    """Distinct 64-bit hashes of the runs of `size` words; of all words together where there are fewer; none of none."""
    if not words:
        return np.zeros(0, dtype=np.uint64)
    grams = [" ".join(words[i : i + size]) for i in range(max(1, len(words) - size + 1))]
    return np.unique(np.array([_hash(gram) for gram in grams], dtype=np.uint64))


def exact_key(text: str) -> str:
    """The same for texts with the same words."""
    return " ".join(normalised(text))


class NearDuplicates:
    """Texts seen so far, by MinHash bands; a meeting in a band is checked by the exact Jaccard similarity.

    Shingles whose hashes are `ignored` don't count. A text that has no others is like no text.
    """

    def __init__(self, *, ignored: Hashes | None = None) -> None:
        self._ignored = ignored
        self._shingles: list[Hashes] = []
        self._buckets: dict[tuple[int, bytes], list[int]] = {}
        draw = np.random.default_rng(0)
        self._a = draw.integers(1, int(_PRIME), (BANDS * BAND_ROWS, 1), dtype=np.uint64)
        self._b = draw.integers(0, int(_PRIME), (BANDS * BAND_ROWS, 1), dtype=np.uint64)

    def find(self, text: str) -> int | None:
        """The first text added, by number, that this is a near-duplicate of, or None."""
        return next(self.like(text), None)

    def like(self, text: str, *, skip: Callable[[int], bool] = lambda _: False) -> Iterator[int]:
        """All texts added, by number and ascending, that this is a near-duplicate of.

        Those that `skip` is true of are passed over; it is asked right before a comparison.
        """
        shingles = self._of(text)
        seen: set[int] = set()
        for key in self._keys(shingles):
            seen.update(self._buckets.get(key, ()))
        for i in sorted(seen):
            if not skip(i) and _jaccard(self._shingles[i], shingles) >= NEAR:
                yield i

    def add(self, text: str) -> None:
        """Remember a text; it gets the next number."""
        shingles = self._of(text)
        for key in self._keys(shingles):
            self._buckets.setdefault(key, []).append(len(self._shingles))
        self._shingles.append(shingles)

    def _of(self, text: str) -> Hashes:
        shingles = gram_hashes(normalised(text), SHINGLE_WORDS)
        return shingles if self._ignored is None else np.setdiff1d(shingles, self._ignored, assume_unique=True)

    def _keys(self, shingles: Hashes) -> Iterator[tuple[int, bytes]]:
        if not len(shingles):
            return
        small = shingles % _PRIME
        signature = ((self._a * small + self._b) % _PRIME).min(axis=1).reshape(BANDS, BAND_ROWS)
        for band, values in enumerate(signature):
            yield band, values.tobytes()


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


def _hash(gram: str) -> int:
    data = gram.encode()
    return zlib.crc32(data) << 32 | zlib.adler32(data[::-1], zlib.crc32(data[::-1]))


def _jaccard(a: Hashes, b: Hashes) -> float:
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / max(1, len(a) + len(b) - common)
