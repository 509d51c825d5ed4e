"""The files of the cell "reviews": sentences of product reviews, and whether the customer is happy, by the ratings.

Other sentences, asked about in other words, are hidden among the general rows of the pool. Source: the archive of PyPI
package vaderSentiment 3.3.2 (MIT), which holds 3,708 sentences of product reviews, rated from -4 to 4 (Hutto and
Gilbert, ICWSM 2014). Its wheel lacks them: `pip download --no-deps --no-binary :all: vaderSentiment==3.3.2`.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from supply import write_rows

from ntkcli.demo.pool import Candidate, candidates, pool_rows
from ntkcli.demo.text import NearDuplicates, rank

REVIEWS = "vaderSentiment-3.3.2"

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


@dataclass(frozen=True, slots=True)
class ReviewFiles:
    """Rows to learn from, rows to test on, and the pool."""

    train: Path
    test: Path
    pool: Path


def write_reviews(
    folder: Path, *, n_train: int, n_test: int, n_pool: int, n_hidden: int = 0, seed: int = 0
) -> ReviewFiles:
    """The three files in `folder`; `n_hidden` rows of the pool are reviews. The archive lies in the working folder."""
    train, test, hidden = domain_rows(seed=seed, n_train=n_train, n_test=n_test, n_hidden=n_hidden)
    held_out = NearDuplicates()
    for row in (*train, *test):
        held_out.add(row["prompt"].partition("\n\n")[0])
    general = [row for row in candidates(seed, n_pool) if not held_out.has(row.prompt)][: n_pool - n_hidden]
    pool = pool_rows([*general, *hidden], seed=seed)
    tables = {"train": train, "test": test, "pool": pool}
    return ReviewFiles(**{name: write_rows(folder / f"{name}.jsonl", rows) for name, rows in tables.items()})


def domain_rows(
    *, seed: int, n_train: int, n_test: int, n_hidden: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[Candidate]]:
    """Rows to learn from, to test on and to hide, half of each answer; no two of them near-duplicates."""
    distinct = _distinct(read_sentences(), seed=seed)
    parts: tuple[list[Sentence], list[Sentence], list[Sentence]] = ([], [], [])
    for answer in range(len(ANSWERS)):
        sentences = [sentence for sentence in distinct if sentence.answer == answer]
        sizes = [_share(n, answer) for n in (n_test, n_train, n_hidden)]
        if len(sentences) < sum(sizes):
            raise SystemExit(f"{len(sentences)} sentences are {ANSWERS[answer]}, and {sum(sizes)} are needed")
        for part, size in zip(parts, sizes, strict=True):
            part.extend(sentences[:size])
            sentences = sentences[size:]
    test, train, hidden = (sorted(part, key=lambda each: rank(seed, "row", each.text)) for part in parts)
    rows = [Candidate(0.0, HIDDEN_SOURCE, HIDDEN_FORM.format(text=each.text), ANSWERS[each.answer]) for each in hidden]
    return _rows(train, "train"), _rows(test, "test"), rows


def read_sentences() -> list[Sentence]:
    """All sentences fit for a row, in the archive's order: short, and rated clearly."""
    outer, inner = _MEMBERS
    archive = Path(f"{REVIEWS}.tar.gz")
    if not archive.is_file():
        line = f"pip download --no-deps --no-binary :all: {REVIEWS.replace('-', '==')}"
        raise SystemExit(f"The rated sentences are in the source archive of vaderSentiment; get it here: {line}")
    with tarfile.open(archive) as package:
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
    assert file is not None  # None is for folders and links
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
