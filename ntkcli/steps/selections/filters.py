"""Which scored rows may be chosen at all: lists of ids, lengths and repeated texts. Each filter is counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.data import DataFile, Row
from ntkcli.errors import UsageError
from ntkcli.selection.duplicates import first_of_each
from ntkcli.steps.scores.sides import texts_of, token_counts

Rows = NDArray[np.int64]
DATA_SUFFIXES = (".jsonl", ".jsonl.gz")


@dataclass(slots=True)
class Eligible:
    """The pool's rows that are left (ascending int64), and how many each option took out, in order."""

    rows: Rows
    removed: dict[str, int] = field(default_factory=dict)

    def keep(self, mask: NDArray[np.bool_], option: str) -> None:
        """Leave only the rows where `mask` (over `rows`) holds."""
        self.removed[option] = self.removed.get(option, 0) + int((~mask).sum())
        self.rows = self.rows[mask]

    def binding(self) -> str:
        """What took rows out, for messages: `--dedup exact took 12, --exclude took 3`."""
        took = [f"{option} took {count}" for option, count in self.removed.items() if count]
        return ", ".join(took)


def listed_rows(dataset: store.Artefact, paths: Sequence[str | Path], *, option: str, strict: bool) -> Rows:
    """The pool's rows that these files name (ascending): ids, a line each, or the rows of a data file.

    Raises:
        UsageError: a file is missing or, if `strict`, names a row that the pool doesn't have.
    """
    position = {row_id: i for i, row_id in enumerate(dataset.read("row_id").tolist())}
    found: set[int] = set()
    for path in map(Path, paths):
        for row_id in _ids(path, option):
            if row_id in position:
                found.add(position[row_id])
            elif strict:
                raise UsageError(
                    f"{option} {path}: the pool has no row with the id {row_id!r}.", "Name rows of the pool only."
                )
    return np.array(sorted(found), dtype=np.int64)


def keep_lengths(
    eligible: Eligible, stored: store.Store, data: str, *, min_tokens: int | None, max_tokens: int | None
) -> None:
    """Leave only rows with a known length in tokens inside the bounds, both included."""
    tokens = token_counts(stored, data)[eligible.rows]
    if min_tokens is not None:
        eligible.keep(tokens >= min_tokens, "--min-tokens")
        tokens = tokens[tokens >= min_tokens]
    if max_tokens is not None:
        eligible.keep((tokens <= max_tokens) & (tokens > 0), "--max-tokens")


def keep_first_of_repeats(
    eligible: Eligible, stored: store.Store, data: str, *, near: bool, order: Rows, first: Rows
) -> None:
    """Of texts that repeat, leave the one that stands first in `first`, then in `order` (rows, best first).

    All texts of the eligible rows are in memory.
    """
    texts = dict(texts_of(stored, data, eligible.rows)())
    asked = [*first.tolist(), *order[np.isin(order, eligible.rows) & ~np.isin(order, first)].tolist()]
    kept, _ = first_of_each(((row, texts[row]) for row in asked if row in texts), near=near)
    eligible.keep(np.isin(eligible.rows, kept), f"--dedup {'minhash' if near else 'exact'}")


def _ids(path: Path, option: str) -> Iterator[str]:
    if not path.is_file():
        raise UsageError(f"{option} {path}: no such file.", "Give a file of ids, a line each, or a data file.")
    if path.name.lower().endswith(DATA_SUFFIXES):
        yield from (row.row_id for row in DataFile(path).rows() if isinstance(row, Row))
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            yield line.strip()
