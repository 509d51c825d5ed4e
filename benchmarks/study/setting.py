"""What a table of the study is made of, reduced or in full: tasks, sizes, seeds, training; and its data."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

DATA_SEED: Final = 0
"""Of the one shuffle of each file that every size is the beginning of: |D| = 32 lies within |D| = 100."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One comparison: a task, rows of its domain, rows selected for each of them."""

    task: str
    domain: int
    times: int

    @property
    def n(self) -> int:
        """Rows selected."""
        return self.domain * self.times

    @property
    def name(self) -> str:
        """Of its artefacts, its eval and its recipe."""
        return f"{self.task}-d{self.domain}-s{self.n}"


@dataclass(frozen=True, slots=True)
class Setting:
    """`max_words`: pool rows with more are left out; `test_items`, `pool_rows`: at most so many; None: all."""

    tasks: tuple[str, ...]
    domains: tuple[int, ...]
    times: tuple[int, ...]
    pool_rows: int | None
    max_words: int | None
    test_items: int | None
    epochs: int
    seeds: tuple[int, ...] = (0, 1, 2)
    warmup_epochs: int = 3
    training: dict[str, Any] = field(default_factory=lambda: {"lr": 4e-4, "rank": 16, "batch-size": 8})
    max_length: int = 512

    def cells(self) -> Iterator[Cell]:
        """Every cell, small ones first."""
        return (Cell(task, d, t) for t in self.times for d in self.domains for task in self.tasks)


REDUCED: Final = Setting(
    tasks=("financial-fpb", "legal-tos"),
    domains=(32,),
    times=(4,),
    pool_rows=1536,
    max_words=40,
    test_items=200,
    epochs=2,
)
"""Some hours of two processor cores."""
FULL: Final = Setting(
    tasks=(
        "financial-fpb",
        "financial-goldnews",
        "legal-clause",
        "legal-tos",
        "psychological-stresscause",
        "medical-medmcqa",
        "psychological-exam",
    ),
    domains=(32, 100, 500),
    times=(4, 9),
    pool_rows=None,
    max_words=None,
    test_items=None,
    epochs=3,
)
"""For a GPU; the last two tasks, whose answers are letters, show the floor of a model of 135 M parameters."""


def cut_data(source: Path, folder: Path, setting: Setting) -> None:
    """`pool.jsonl`, `<task>-d<rows>.jsonl` and `<task>-test.jsonl` in `folder`, from the files of `source`."""
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(source / "pool.jsonl.gz", "rt", encoding="utf-8") as file:
        pool = [row for row in map(json.loads, file) if _words(row) <= (setting.max_words or _words(row))]
    _write(folder / "pool.jsonl", pool, setting.pool_rows)
    for task in setting.tasks:
        train = _read(source / f"{task}-train.jsonl")
        for rows in setting.domains:
            _write(folder / f"{task}-d{rows}.jsonl", train, rows)
        _write(folder / f"{task}-test.jsonl", _read(source / f"{task}-test.jsonl"), setting.test_items)


def _words(row: dict[str, Any]) -> int:
    return len(row["prompt"].split()) + len(row["completion"].split())


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write(path: Path, rows: list[dict[str, Any]], count: int | None) -> None:
    """The first rows of one shuffle; a file that says the same already stays, so that its digest's cache does."""
    kept = random.Random(DATA_SEED).sample(rows, len(rows))[:count]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
