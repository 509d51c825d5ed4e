"""Near-duplicates by bands, held against all pairs; hashes against the plain definition; memory for many texts."""

from __future__ import annotations

import random
import tracemalloc
import zlib

import numpy as np
import pytest

from ntkcli.selection import duplicates
from ntkcli.selection.bands import FIRST_ROOM, Bands
from ntkcli.selection.duplicates import NEAR, NearDuplicates, Signatures, first_of_each, gram_hashes
from tests.conftest import WORDS


def made_texts(n: int, *, seed: int = 0) -> list[str]:
    """Texts of 1 to 60 words; every third is an earlier one with up to four other words."""
    draw = random.Random(seed)
    texts: list[str] = []
    for i in range(n):
        words = draw.choices(WORDS, k=draw.randint(1, 60))
        if i % 3 == 2:
            words = draw.choice(texts).split()
            for _ in range(draw.randint(0, 4)):
                words[draw.randrange(len(words))] = f"w{draw.random()}"
        texts.append(" ".join(words))
    return texts


def jaccard(a: str, b: str) -> float:
    one, other = (set(gram_hashes(text.split(), duplicates.SHINGLE_WORDS).tolist()) for text in (a, b))
    return len(one & other) / len(one | other)


def test_the_first_of_each_is_that_of_all_pairs() -> None:
    texts = made_texts(150)
    kept: list[int] = []
    repeats = []
    for i, text in enumerate(texts):
        first = next((j for j in kept if jaccard(texts[j], text) >= NEAR), None)
        if first is None:
            kept.append(i)
        else:
            repeats.append((i, first))
    assert repeats
    assert first_of_each(enumerate(texts), range(len(texts)), near=True) == (kept, repeats)


def test_texts_without_words_are_like_none() -> None:
    index = NearDuplicates()
    for text in ("", "!!!", "a b c d"):
        index.add(text)
    assert index.find("???") is None
    assert index.find("a b c d") == 2


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("text", ["a b c d e f g h i j", "one", "", "é à ü ß ひ らが な x y", "a a a a a a a a a"])
def test_gram_hashes_by_definition(text: str, size: int) -> None:
    words = text.split()
    grams = [" ".join(words[i : i + size]) for i in range(max(1, len(words) - size + 1))] if words else []
    expected = set()
    for gram in grams:
        data = gram.encode()
        expected.add(zlib.crc32(data) << 32 | zlib.adler32(data[::-1], zlib.crc32(data[::-1])))
    assert gram_hashes(words, size).tolist() == sorted(expected)


def test_signatures_by_definition() -> None:
    """Shifts and sums give the remainder by the prime, also of a text that is longer than what is hashed at once."""
    numbers = np.random.default_rng(0).integers(0, 2**64, 5000, dtype=np.uint64)
    edges = np.array([0, 1, 2**31 - 2, 2**31 - 1, 2**31, 2**62 - 1, 2**64 - 1], dtype=np.uint64)
    for each in (numbers, edges):
        np.testing.assert_array_equal(duplicates._below_prime(each), each % np.uint64(2**31 - 1))
    signatures = Signatures()
    whole = signatures.keys(np.unique(numbers))
    halves = [signatures.keys(half) for half in np.split(np.unique(numbers), 2)]
    assert not any((half == whole).all() for half in halves)


def test_bands_against_a_dictionary() -> None:
    """Through two times of doubling; keys that fall into one bucket are told apart."""
    draw = np.random.default_rng(1)
    bands, known = Bands(4), [dict[int, list[int]]() for _ in range(4)]
    for number in range(3 * FIRST_ROOM):
        keys = (draw.integers(0, 50, 4) * (1 << draw.integers(0, 20))).astype(np.uint32)
        expected = sorted({text for band, key in enumerate(keys.tolist()) for text in known[band].get(key, [])})
        if number % 7 == 0:
            assert bands.meeting(keys) == expected
        bands.add(keys)
        for band, key in enumerate(keys.tolist()):
            known[band].setdefault(key, []).append(number)


def test_a_text_takes_a_kilobyte() -> None:
    texts = [" ".join(f"w{i}-{j}" for j in range(40)) for i in range(2000)]
    tracemalloc.start()
    index = NearDuplicates()
    for text in texts:
        index.add(text)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held / len(texts) < 1 << 12  # an array of shingles has room for 13,000 texts; one text took 12 kB before
    assert (held - index._shingles._arrays[0].nbytes) / len(texts) < 1 << 10
