"""Order by hash, word shingles and the near-duplicate check. Pure functions of text; reads no file."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict

Text = dict[str, str]
"""A row of raw text: id, source and text."""
Shingles = frozenset[tuple[str, ...]]

SHINGLE_WORDS = 3
# |A & B| / min(|A|, |B|) above this = near-duplicate. Stricter than Jaccard > 0.5, which implies an overlap
# above 2/3; and it also catches a notice quoted whole inside a longer one, which Jaccard doesn't.
MAX_OVERLAP = 0.6

_WORD = re.compile(r"[^\W_]+(?:['.-][^\W_]+)*")
_ADDRESS = re.compile(r"\S*(?:https?:|www\.|@)\S*")
# Capitalised words that are not names: they open sentences.
_KEPT_TEXT = (
    "a all an and any as by for from if in is it may no not of on or see that the there this to we with you your "
)
_KEPT = frozenset(_KEPT_TEXT.split())


def rank(seed: int, *parts: str) -> str:
    """A digest to sort by: an order that depends on the seed and the content, never on the file system."""
    return hashlib.sha256("\0".join((str(seed), *parts)).encode()).hexdigest()


def normal_words(text: str) -> list[str]:
    """The text's words in lower case, without punctuation; names, numbers and addresses become one "_" each.

    A run of masked words is one "_": "Foo Bar 2.1" equals "Baz". Text all in capitals has no names.
    """
    shouted = text.upper() == text
    words: list[str] = []
    for word in _WORD.findall(_ADDRESS.sub(" 0 ", text)):
        low = word.lower()
        name = word[0].isupper() and not shouted and low not in _KEPT
        masked = "_" if name or any(c.isdigit() for c in word) else low
        if masked != "_" or not words or words[-1] != "_":
            words.append(masked)
    return words


def shingles(text: str) -> Shingles:
    """The set of the normalised text's word triples (or the text itself, below three words)."""
    words = normal_words(text)
    last = max(len(words) - SHINGLE_WORDS, 0)
    return frozenset(tuple(words[i : i + SHINGLE_WORDS]) for i in range(last + 1))


class NearDuplicates:
    """Texts seen so far, by shingle; says whether a new one repeats any of them."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._holders: dict[tuple[str, ...], list[int]] = defaultdict(list)

    def has(self, text: str) -> bool:
        """True when an added text and this one share more than MAX_OVERLAP of the smaller one's shingles."""
        own = shingles(text)
        shared: dict[int, int] = defaultdict(int)
        for shingle in own:
            for holder in self._holders.get(shingle, ()):
                shared[holder] += 1
        return any(n > MAX_OVERLAP * min(len(own), self._sizes[holder]) for holder, n in shared.items())

    def add(self, text: str) -> None:
        """Remember a text."""
        own = shingles(text)
        for shingle in own:
            self._holders[shingle].append(len(self._sizes))
        self._sizes.append(len(own))
