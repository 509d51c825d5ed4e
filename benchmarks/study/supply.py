"""The files of one cell of the map: a domain, its test items, and rows of a pool whose right ones are known.

The prompts are put in short words that name neither the task nor its field, so that training is cheap and no row can be
found by the words of its prompt. Nothing here looks at a score.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

Row = dict[str, Any]

MAX_WORDS: Final = 40
"""Pool rows, domain rows and test items with more words are left out: a token of training is what the map costs."""


@dataclass(frozen=True, slots=True)
class Wording:
    """How a text is asked about, and what each label is called (by the task's own label)."""

    ask: str
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class Task:
    """A task: its short prompt, other wordings of it, and sources of the pool with the same skill in other fields."""

    ask: str
    skill: tuple[str, ...]
    reworded: tuple[Wording, ...]


TASKS: Final[dict[str, Task]] = {
    "financial-fpb": Task(
        "{text}\n\npositive, neutral or negative?",
        ("tweet-sentiment", "movie-review", "movie-stars", "product-review"),
        (
            Wording(
                "{text}\n\nHow does an owner of shares feel: glad, calm or worried?",
                {"positive": "glad", "neutral": "calm", "negative": "worried"},
            ),
            Wording(
                "Is this good news, bad news or no news?\n\n{text}",
                {"positive": "good news", "neutral": "no news", "negative": "bad news"},
            ),
        ),
    ),
    "financial-goldnews": Task(
        "{text}\n\npositive, negative, neutral or none?",
        ("tweet-sentiment", "movie-review", "movie-stars", "product-review"),
        (
            Wording(
                "{text}\n\nThe price: up, down, level or unknown?",
                {"positive": "up", "negative": "down", "neutral": "level", "none": "unknown"},
            ),
            Wording(
                "Which way does it move, if it says so? higher, lower, flat, unsaid\n\n{text}",
                {"positive": "higher", "negative": "lower", "neutral": "flat", "none": "unsaid"},
            ),
        ),
    ),
    "psychological-stresscause": Task(
        "{text}\n\nThe cause?",
        ("tweet-emotion", "bank-intent", "assistant-intent"),
        (
            Wording(
                "{text}\n\nFile this under one heading.",
                {
                    "school": "education",
                    "financial problem": "money",
                    "family issues": "relatives",
                    "social relationships": "friends",
                    "work": "job",
                    "health issues": "illness",
                    "emotional turmoil": "feelings",
                    "everyday decision making": "choices",
                    "other causes": "misc",
                },
            ),
        ),
    ),
    "legal-clause": Task(
        "{text}\n\nThe kind?",
        ("news-topic", "bank-intent", "assistant-intent", "question-type"),
        (
            Wording(
                "{text}\n\nWrite a heading.",
                {
                    "license grant": "permission to use",
                    "anti-assignment": "no transfer",
                    "cap on liability": "limit of damages",
                    "audit rights": "inspection of books",
                    "insurance": "cover",
                    "governing law": "which law",
                    "expiration date": "end of term",
                    "exclusivity": "sole dealing",
                    "minimum commitment": "least purchase",
                    "post-termination services": "help after the end",
                },
            ),
        ),
    ),
}
KINDS: Final = ("skill", "reworded", "wording")
"""Kinds of supply: another field's rows of the same skill; the same field in other words and labels; the task's own
labels, only asked in other words."""


def domain_rows(source: Path, task: str, n: int, *, seed: int) -> list[Row]:
    """The first `n` rows of one shuffle of the training file, so that a small domain lies within a larger one."""
    return [_short(task, row) for row in _shuffled(source, task, "train", seed)[:n]]


def test_rows(source: Path, task: str, n: int) -> list[Row]:
    """`n` items of the test file, with choices and the answer's position."""
    return [_short(task, row) for row in _shuffled(source, task, "test", 0)[:n]]


def wanted_rows(source: Path, task: str, kind: str, n: int, *, largest_domain: int, seed: int) -> list[Row]:
    """`n` right rows of a kind: pairs of prompt and completion, labels as evenly as a shuffle has them.

    Rows of the task's own training file come from behind the largest domain of the map: no domain holds one.
    """
    if kind == "skill":
        pool = [row for row in pool_rows(source) if row["source"] in TASKS[task].skill]
        random.Random(seed).shuffle(pool)
        return pool[:n]
    own = _shuffled(source, task, "train", 0)[largest_domain:]
    random.Random(seed).shuffle(own)
    found = []
    for i, row in enumerate(own[:n]):
        wordings = TASKS[task].reworded
        wording = wordings[i % len(wordings)]
        label = row["completion"]
        prompt = wording.ask.format(text=_text(row)) if kind == "reworded" else f"Read: {_text(row)}\nLabel:"
        completion = wording.labels[label] if kind == "reworded" else label
        found.append({"id": f"{kind}-{row['id']}", "source": kind, "prompt": prompt, "completion": completion})
    return found


def general_rows(source: Path, task: str, n: int, *, seed: int) -> list[Row]:
    """`n` rows of the pool that have nothing of the task's skill."""
    pool = [row for row in pool_rows(source) if row["source"] not in TASKS[task].skill]
    random.Random(seed).shuffle(pool)
    return pool[:n]


def random_draw(wanted: Sequence[Row], general: Sequence[Row], n: int, share: float, *, seed: int) -> list[Row]:
    """`n` rows drawn from a pool of which `share` is right: as many right ones as such a draw has on average."""
    draw = random.Random(seed)
    right = round(share * n)
    return [*draw.sample(list(wanted), right), *draw.sample(list(general), n - right)]


_pools: dict[Path, list[Row]] = {}


def pool_rows(source: Path) -> list[Row]:
    """Rows of pool2.jsonl.gz of at most `MAX_WORDS` words, as pairs."""
    if source not in _pools:
        with gzip.open(source / "pool2.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = map(json.loads, file)
            keys = ("id", "source", "prompt", "completion")
            _pools[source] = [{key: row[key] for key in keys} for row in rows if _words(row) <= MAX_WORDS]
    return list(_pools[source])


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    """The rows as JSON Lines; a file that says the same already stays, so that its digest's memo does."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return path


def _shuffled(source: Path, task: str, split: str, seed: int) -> list[Row]:
    lines = (source / f"{task}-{split}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if len(_text(row).split()) <= MAX_WORDS]
    random.Random(seed).shuffle(rows)
    return rows


def _text(row: Row) -> str:
    """A prompt of these files is an instruction, `Name: text`, and the list of answers, with blank lines between."""
    middle = str(row["prompt"]).split("\n\n", 1)[1].rsplit("\n\n", 1)[0]
    return middle.partition(": ")[2].strip()


def _short(task: str, row: Row) -> Row:
    return {**row, "prompt": TASKS[task].ask.format(text=_text(row))}


def _words(row: Row) -> int:
    return len(row["prompt"].split()) + len(row["completion"].split())
