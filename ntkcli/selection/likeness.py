"""Which texts say the same, for keeping them on one side of a split and for finding test items in training rows.

Pure strings; must not know rows or files.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
import zlib
from collections.abc import Sequence

import numpy as np

from ntkcli.progress import counted_below
from ntkcli.selection.duplicates import SHINGLE_WORDS, Hashes, NearDuplicates, exact_key, gram_hashes, normalised

PROMPT_WORDS = 8
"""Words from which equal prompts are one question, whatever the answers; shorter ones ("Summarise:") may be common."""
TEMPLATE_SHARE, TEMPLATE_ROWS = 0.5, 10
"""Of the rows, and rows at least, that more than so many share a run of words in: it is the template of all of them."""
SAMPLE_ROWS = 10_000
"""Rows that a template is found in."""
_UNSPACED = re.compile(r"([\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff])")
"""Letters of scripts that put no spaces between words: each counts as a word."""


def comparable(text: str) -> str:
    """The text in one form of Unicode, without characters that don't show, and with words apart in every script."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    if not plain.isascii():
        plain = "".join(char for char in plain if unicodedata.category(char) != "Cf")
    return _UNSPACED.sub(r" \1 ", plain)


def key_of(text: str) -> str:
    """The same for texts with the same words; a text without any word is compared as it is."""
    plain = comparable(text)
    return exact_key(plain) or f"\0{' '.join(plain.split())}"


def prompt_key(prompt: str | None) -> str | None:
    """The same for prompts with the same words; None for a short one."""
    words = normalised(comparable(prompt)) if prompt else []
    return " ".join(words) if len(words) >= PROMPT_WORDS else None


def order_in_sample(text: str) -> tuple[int, bytes]:
    """The texts that come first in this order are the sample of a set, in whatever order they stand there."""
    data = text.encode()
    return zlib.crc32(data), hashlib.blake2b(data, digest_size=8).digest()


def template_of(texts: Sequence[str]) -> Hashes:
    """The shingles (sorted hashes) of the words that most of these comparable texts share; the order does not matter.

    Instructions around a short text would make all rows near-duplicates of each other.
    """
    chosen = sorted(texts, key=order_in_sample)[:SAMPLE_ROWS]
    return most_common([gram_hashes(normalised(text), SHINGLE_WORDS) for text in chosen])


def most_common(sample: Sequence[Hashes]) -> Hashes:
    """Sorted hashes that stand in most texts of a sample: their template."""
    hashes, counts = np.unique(np.concatenate([np.zeros(0, dtype=np.uint64), *sample]), return_counts=True)
    common: Hashes = hashes[counts > max(TEMPLATE_ROWS, TEMPLATE_SHARE * len(sample))]
    return common


class Known:
    """Texts to find in others: exactly, by words, or nearly."""

    def __init__(self, texts: Sequence[str], prompts: Sequence[str | None]) -> None:
        self._exact = {key_of(text) for text in texts}
        self._prompts = {key for prompt in prompts if (key := prompt_key(prompt)) is not None}
        plain_texts = [comparable(text) for text in texts]
        self._near = NearDuplicates(ignored=template_of(plain_texts))
        for text in counted_below(plain_texts, "texts to compare with", len(texts)):
            self._near.add(text)

    def has(self, text: str) -> bool:
        """Whether one of them has the same words."""
        return key_of(text) in self._exact

    def is_near(self, text: str, prompt: str | None) -> bool:
        """Whether one of them is a near-duplicate or has the same long prompt."""
        return prompt_key(prompt) in self._prompts or self._near.find(comparable(text)) is not None
