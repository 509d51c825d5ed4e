"""Exact match and token F1 as SQuAD's evaluation script has them (Rajpurkar et al. 2016, version 1.1)."""

from __future__ import annotations

import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation, without the articles a, an and the, with single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, reference: str) -> bool:
    """Whether the two are the same once normalised."""
    return normalise(answer) == normalise(reference)


def token_f1(answer: str, reference: str) -> float:
    """F1 of the words that the two have in common, in [0, 1]; two texts without words agree."""
    ours, theirs = normalise(answer).split(), normalise(reference).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))
