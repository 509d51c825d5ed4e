"""The demo's domain: sentences of product reviews, and whether the customer is happy, by the mean of people's ratings.

Other sentences, asked about in other words, are what the demo hides in its pool. Knows nothing of the pool's other
rows. Source: the archive of PyPI package vaderSentiment 3.3.2 (MIT), which holds 3,708 sentences of product reviews,
rated from -4 to 4 (Hutto and Gilbert, ICWSM 2014).
"""

from __future__ import annotations

import io
import tarfile
from typing import Any, NamedTuple

from ntkcli.demo.packages import REVIEWS, reviews_archive
from ntkcli.demo.text import NearDuplicates, rank
from ntkcli.errors import UsageError

ANSWERS = ("happy", "unhappy")
QUESTION = "Is this customer happy or unhappy?"  # behind the sentence and a blank line
HIDDEN_FORM = "Review: {text}\n\nThe customer is:"
HIDDEN_SOURCE = "product-reviews"
MIN_RATING = 1.0  # either way: nearer to 0, people do not agree
MIN_WORDS, MAX_WORDS, MAX_CHARS = 6, 24, 130
_MEMBERS = ("additional_resources/hutto_ICWSM_2014.tar.gz", "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt")


class Sentence(NamedTuple):
    """One rated sentence; `answer` indexes ANSWERS."""

    text: str
    answer: int


class DomainRows(NamedTuple):
    """Rows to learn from, rows to test on, and related rows for the pool to hide."""

    train: list[dict[str, Any]]
    test: list[dict[str, Any]]
    hidden: list[dict[str, Any]]


def domain_rows(*, seed: int, n_train: int, n_test: int, n_hidden: int = 0) -> DomainRows:
    """The rows of each kind, half of each answer; no two rows near-duplicates, of one kind or across.

    UsageError where the archive holds fewer sentences than asked for.
    """
    distinct = _distinct(read_sentences(), seed=seed)
    parts: tuple[list[Sentence], list[Sentence], list[Sentence]] = ([], [], [])
    for answer in range(len(ANSWERS)):
        sentences = [sentence for sentence in distinct if sentence.answer == answer]
        sizes = [_share(n, answer) for n in (n_test, n_train, n_hidden)]
        if len(sentences) < sum(sizes):
            raise UsageError(
                f"{REVIEWS} holds {len(sentences)} distinct short sentences of customers that are {ANSWERS[answer]}, "
                f"and {n_train} training, {n_test} test and {n_hidden} hidden rows need {sum(sizes)}.",
                "Ask for fewer rows.",
            )
        for part, size in zip(parts, sizes, strict=True):
            part.extend(sentences[:size])
            sentences = sentences[size:]
    test, train, hidden = (sorted(part, key=lambda each: rank(seed, "row", each.text)) for part in parts)
    rows = [
        {"source": HIDDEN_SOURCE, "prompt": HIDDEN_FORM.format(text=each.text), "completion": ANSWERS[each.answer]}
        for each in hidden
    ]
    return DomainRows(_rows(train, "train"), _rows(test, "test"), rows)


def read_sentences() -> list[Sentence]:
    """All sentences fit for a row, in the archive's order: short, and rated clearly."""
    outer, inner = _MEMBERS
    with tarfile.open(reviews_archive()) as package:
        folder = _member(package, f"{REVIEWS}/{outer}")
        with tarfile.open(fileobj=io.BytesIO(folder)) as data:
            lines = _member(data, inner).decode("utf-8", errors="replace").splitlines()
    found = []
    for line in lines:
        _, rating, text = line.split("\t", 2)
        text = " ".join(text.split())
        if abs(float(rating)) >= MIN_RATING and MIN_WORDS <= len(text.split()) <= MAX_WORDS and len(text) <= MAX_CHARS:
            found.append(Sentence(text, 0 if float(rating) > 0 else 1))
    return found


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)  # KeyError: an archive of this name always has it
    assert file is not None  # noqa: S101  # None is for folders and links
    return file.read()


def _distinct(sentences: list[Sentence], *, seed: int) -> list[Sentence]:
    """The sentences without near-duplicates, in the seed's order."""
    seen = NearDuplicates()
    kept = []
    for sentence in sorted(sentences, key=lambda each: rank(seed, each.text)):
        if not seen.has(sentence.text):
            seen.add(sentence.text)
            kept.append(sentence)
    return kept


def _share(n: int, i: int) -> int:
    """How many of n rows answer i gets: half, the first ones one more."""
    return n // len(ANSWERS) + (i < n % len(ANSWERS))


def _rows(sentences: list[Sentence], split: str) -> list[dict[str, Any]]:
    """Rows as users' own files have them."""
    return [
        {
            "id": f"review-{split}-{i:04d}",
            "source": "reviews",
            "prompt": f"{sentence.text}\n\n{QUESTION}",
            "completion": ANSWERS[sentence.answer],
            "choices": list(ANSWERS),
            "answer": sentence.answer,
        }
        for i, sentence in enumerate(sentences)
    ]
