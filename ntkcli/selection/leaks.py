"""Find texts of test items inside other texts: shared runs of words, and near-duplicates. Pure strings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ntkcli.progress import counted_below
from ntkcli.selection.duplicates import Hashes, NearDuplicates, gram_hashes, normalised

GRAM_WORDS = 8
"""Words in a row that count as a leak: as in PaLM's and Llama 2's reports, which ask for 8 and 10."""
MOST_ITEMS = 10
"""Items that a run may stand in before it counts as the test's template ("answer the question with yes or no ...")."""


@dataclass(frozen=True, slots=True)
class Leak:
    """A test item, by number, found in a text: `shared` are the common words, "" for a near-duplicate."""

    item: int
    shared: str


class TestItems:
    """Test items to look for. Memory: their words, and 16 bytes for each run of 8 words."""

    __test__ = False  # no pytest class

    def __init__(self, texts: Sequence[str]) -> None:
        self._words = []
        self._near = NearDuplicates()
        for text in counted_below(texts, "test items", len(texts)):
            self._words.append(normalised(text))
            self._near.add(text)
        grams = [gram_hashes(words, GRAM_WORDS) for words in self._words]
        hashes = np.concatenate(grams) if grams else np.zeros(0, dtype=np.uint64)
        owner = np.repeat(np.arange(len(grams)), [len(each) for each in grams])
        self._hashes, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        rare = counts <= MOST_ITEMS
        self._hashes, self._owner = self._hashes[rare], owner[first[rare]]

    def find(self, text: str) -> Leak | None:
        """The first item whose words the text holds, or None. O(words of the text)."""
        words = normalised(text)
        for item in self._candidates(gram_hashes(words, GRAM_WORDS)):
            shared = _common_run(words, self._words[item])
            if shared:
                return Leak(item, shared)
        near = self._near.find(text)
        return None if near is None else Leak(near, "")

    def _candidates(self, grams: Hashes) -> list[int]:
        """Items that share a hash, which a text may do by chance."""
        if not len(self._hashes):
            return []
        at = np.minimum(np.searchsorted(self._hashes, grams), len(self._hashes) - 1)
        return sorted({int(item) for item in self._owner[at[self._hashes[at] == grams]]})


def _common_run(words: Sequence[str], item: Sequence[str]) -> str:
    """The first run of GRAM_WORDS words (or all, where both have fewer) that stands in both, else ""."""
    size = min(GRAM_WORDS, len(words))
    runs = {tuple(item[i : i + size]) for i in range(len(item) - size + 1)}
    if len(words) < GRAM_WORDS and len(item) != len(words):
        return ""
    found = (run for i in range(len(words) - size + 1) if (run := tuple(words[i : i + size])) in runs)
    return " ".join(next(found, ()))
