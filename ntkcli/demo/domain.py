"""The demo's domain: short licence notices, each with the category that ScanCode's licence experts gave it.

Other notices, asked about in other words, are what the demo hides in its pool. Knows nothing of the pool's other rows.
Source: PyPI package licensedcode-data (34,872 rules, 2,312 licences; CC-BY-4.0).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from ntkcli.demo.packages import data_folder
from ntkcli.demo.text import NearDuplicates, rank, shingles
from ntkcli.errors import UsageError

# The three categories with the most distinct short notices whose text tells the answer. Of those left out, nine notices
# of Commercial in ten belong to one licence, and Public Domain has 54 (measured with 32.1.0).
CATEGORIES = ("Permissive", "Copyleft", "Copyleft Limited")
_NAMES = ", ".join(CATEGORIES[:-1]) + " or " + CATEGORIES[-1]
QUESTION = f"Is this licence notice {_NAMES}?"  # then a blank line and the notice
HIDDEN_QUESTION = "What kind of licence?"  # behind the notice and a blank line
HIDDEN_SOURCE = "licence-notices"
MIN_WORDS, MAX_WORDS = 10, 28
MAX_CHARS = 170  # about 40 tokens of SmolLM2: keeps a row under 80 with the template
MAX_RULE_BYTES = 2_000  # a notice of 28 words and its front matter; longer files are whole licences
MIN_SHINGLES = 6  # below this, too little text is left beside names to tell near-duplicates

_FRONT = re.compile(r"---\n(.*?)\n---\n(.*)", re.DOTALL)
_EXPRESSION = re.compile(r"^license_expression: *(\S+) *$", re.MULTILINE)
_FLAG = re.compile(r"^(is_\w+): *yes", re.MULTILINE)
_COMMENT = re.compile(r"^[ \t]*(?:/\*+|//+|\*+/?|#+|--+|;+|%+|>+|dnl\b|\.\\\")+|\*+/?[ \t]*$", re.MULTILINE)
_PLAIN = re.compile(r"[A-Za-z\"'(][A-Za-z0-9 .,;:'\"()/&!?+-]*")  # no markup, no placeholder, no address
_ENGLISH = re.compile(r"\b(?:the|this|is|of|under|to|and|for|by)\b", re.IGNORECASE)
_GIVEAWAY = re.compile(r"permissive|copy-?left|commercial|https?:|www\.", re.IGNORECASE)


class Notice(NamedTuple):
    """One rule that can become a row: its file's name, its licence's key and category, its cleaned text."""

    rule: str
    licence: str
    category: str
    text: str


class DomainRows(NamedTuple):
    """Rows to learn from, rows to test on, and related rows for the pool to hide."""

    train: list[dict[str, Any]]
    test: list[dict[str, Any]]
    hidden: list[dict[str, Any]]


def domain_rows(*, seed: int, n_train: int, n_test: int, n_hidden: int = 0) -> DomainRows:
    """The rows of each kind, balanced over CATEGORIES; no two rows near-duplicates, of one kind or across.

    A licence may have notices on all sides: to know a licence by its name is part of the task. UsageError where
    the package holds fewer notices than asked for.
    """
    distinct = _distinct(read_notices(data_folder("licensedcode", "data")), seed=seed)
    parts: tuple[list[Notice], list[Notice], list[Notice]] = ([], [], [])
    for i, category in enumerate(CATEGORIES):
        notices = [notice for notice in distinct if notice.category == category]
        sizes = [_share(n, i) for n in (n_test, n_train, n_hidden)]
        if len(notices) < sum(sizes):
            raise UsageError(
                f"licensedcode-data holds {len(notices)} distinct short notices of category {category}, and "
                f"{n_train} training, {n_test} test and {n_hidden} hidden rows need {sum(sizes)}.",
                "Ask for fewer rows.",
            )
        for part, size in zip(parts, sizes, strict=True):
            part.extend(notices[:size])
            notices = notices[size:]
    test, train, hidden = parts
    return DomainRows(_rows(train, "train", seed), _rows(test, "test", seed), _hidden_rows(hidden, seed))


def read_notices(data: Path) -> list[Notice]:
    """All notices fit for a row, in no particular order: one licence, plain text, no category named."""
    categories = _categories(data / "licenses")
    notices = []
    for entry in os.scandir(data / "rules"):
        if not entry.name.endswith(".RULE") or entry.stat().st_size > MAX_RULE_BYTES:
            continue
        front = _FRONT.match(Path(entry.path).read_text(encoding="utf-8"))
        if front is None:
            continue
        key = _EXPRESSION.search(front[1])
        category = categories.get(key[1], "") if key else ""
        if key is None or category not in CATEGORIES or not _usable(set(_FLAG.findall(front[1]))):
            continue
        text = clean(front[2])
        if fits(text):
            notices.append(Notice(entry.name, key[1], category, text))
    return notices


def clean(text: str) -> str:
    """One line: comment signs, the rule format's {{marks}} and repeated blanks taken out."""
    text = text.replace("{{", "").replace("}}", "")
    return " ".join(_COMMENT.sub(" ", text).split())


def fits(text: str) -> bool:
    """Whether a cleaned text reads as a short notice and leaves the answer to be found."""
    return (
        MIN_WORDS <= len(text.split()) <= MAX_WORDS
        and len(text) <= MAX_CHARS
        and _PLAIN.fullmatch(text) is not None
        and len(_ENGLISH.findall(text)) >= 2
        and _GIVEAWAY.search(text) is None
        and len(shingles(text)) >= MIN_SHINGLES
    )


def _usable(flags: set[str]) -> bool:
    wanted = {"is_license_notice", "is_license_text"}
    return bool(flags & wanted) and not flags & {"is_deprecated", "is_false_positive"}


def _categories(folder: Path) -> dict[str, str]:
    """Licence key -> category, from the heads of the licence files."""
    found = {}
    for path in folder.glob("*.LICENSE"):
        with path.open(encoding="utf-8") as file:
            head = file.read(4_000)  # key and category stand in the first lines
        key = re.search(r"^key: *(\S+)", head, re.MULTILINE)
        category = re.search(r"^category: *(.+?) *$", head, re.MULTILINE)
        if key and category:
            found[key[1]] = category[1]
    return found


def _distinct(notices: list[Notice], *, seed: int) -> list[Notice]:
    """The notices without near-duplicates, in the seed's order."""
    seen = NearDuplicates()
    kept = []
    for notice in sorted(notices, key=lambda n: rank(seed, n.rule)):
        if not seen.has(notice.text):
            seen.add(notice.text)
            kept.append(notice)
    return kept


def _share(n: int, i: int) -> int:
    """How many of n rows category i gets: n / 3, the first ones one more."""
    return n // len(CATEGORIES) + (i < n % len(CATEGORIES))


def _rows(notices: list[Notice], split: str, seed: int) -> list[dict[str, Any]]:
    """Rows as users' own files have them, in the seed's order, so that the categories are mixed."""
    ordered = sorted(notices, key=lambda n: rank(seed, "row", n.rule))
    return [
        {
            "id": f"licence-{split}-{i:04d}",
            "source": f"licensedcode/{notice.licence}",
            "prompt": f"{QUESTION}\n\n{notice.text}",
            "completion": notice.category,
            "choices": list(CATEGORIES),
            "answer": CATEGORIES.index(notice.category),
        }
        for i, notice in enumerate(ordered)
    ]


def _hidden_rows(notices: list[Notice], seed: int) -> list[dict[str, Any]]:
    """Rows for the pool: the same labels, asked for in other words, without choices."""
    return [
        {
            "source": HIDDEN_SOURCE,
            "prompt": f"{notice.text}\n\n{HIDDEN_QUESTION}",
            "completion": notice.category,
        }
        for notice in sorted(notices, key=lambda n: rank(seed, "hidden", n.rule))
    ]
