"""Which texts say the same, for keeping them on one side of a split and for finding test items in training rows.

Pure strings; must not know rows or files.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from ntkcli.selection.duplicates import NearDuplicates, exact_key, normalised
from ntkcli.selection.partition import Components

PROMPT_WORDS = 8
"""Words from which equal prompts are one question, whatever the answers; shorter ones ("Summarise:") may be common."""
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


def join_alike(found: Components, texts: Sequence[str], prompts: Sequence[str | None]) -> None:
    """Join rows with the same words, near-duplicates (and theirs, and so on), and rows with the same long prompt."""
    first: dict[str, int] = {}
    prompt_of: dict[str, int] = {}
    index, rows = NearDuplicates(), list[int]()
    for row, (text, prompt) in enumerate(zip(texts, prompts, strict=True)):
        if (question := prompt_key(prompt)) is not None:
            found.join(row, prompt_of.setdefault(question, row))
        known = first.setdefault(key_of(text), row)
        if known != row:
            found.join(row, known)
            continue
        plain = comparable(text)
        for number in index.like(plain, skip=lambda i, row=row: found.same(rows[i], row)):  # type: ignore[misc]
            found.join(row, rows[number])
        index.add(plain)
        rows.append(row)


class Known:
    """Texts to find in others: exactly, by words, or nearly."""

    def __init__(self, texts: Sequence[str], prompts: Sequence[str | None]) -> None:
        self._exact = {key_of(text) for text in texts}
        self._prompts = {key for prompt in prompts if (key := prompt_key(prompt)) is not None}
        self._near = NearDuplicates()
        for text in texts:
            self._near.add(comparable(text))

    def has(self, text: str) -> bool:
        """Whether one of them has the same words."""
        return key_of(text) in self._exact

    def is_near(self, text: str, prompt: str | None) -> bool:
        """Whether one of them is a near-duplicate or has the same long prompt."""
        return prompt_key(prompt) in self._prompts or self._near.find(comparable(text)) is not None
