"""Which pool rows hold test items: against files, by default those that the store's evals were made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import OnError
from ntkcli.data import DataFile, Row, scan
from ntkcli.data.find_source import names_data
from ntkcli.data.hub import local_config
from ntkcli.data.references import is_there
from ntkcli.data.stdin import STDIN
from ntkcli.data.tasks.reference import find_task, names_task
from ntkcli.data.tasks.source import for_evaluation
from ntkcli.errors import UsageError
from ntkcli.identity import digest_file
from ntkcli.paths import home
from ntkcli.progress import Progress, Silent, counted
from ntkcli.selection.leaks import TestItems
from ntkcli.steps.scores.inputs import texts_of
from ntkcli.steps.shared.pool_rows import text_of
from ntkcli.steps.shared.row_ids import RowIds

VERSION = 1
"""Of the search, in specs of selections that leave leaks out: goes up when it would find others."""


@dataclass(frozen=True, slots=True)
class TestFiles:
    """Test files by content; `given` says that the user named them, and the store's evals did not."""

    __test__ = False  # no pytest class

    paths: tuple[str, ...]
    given: bool

    @property
    def spec(self) -> dict[str, Any]:
        """What goes into the spec of a selection: the search's version and the files' digests."""
        return {"version": VERSION, "tests": sorted({_digest(path) for path in self.paths})}


def test_files(stored: store.Store, against: Sequence[str | Path], progress: Progress) -> TestFiles:
    """The files named, else those of the store's evals that are still there.

    Raises:
        UsageError: a file that was named is missing.
    """
    named = [str(path) for path in against]
    for path in named:
        if path == STDIN or not (_is_there(path) or names_data(path)):
            raise UsageError(f"--against {path}: no such file.", "Give a data file, or TASK:PATH.")
        DataFile(for_evaluation(path))  # refused now if it is not of a type that can be read
    if named:
        return TestFiles(tuple(map(for_evaluation, named)), given=True)
    evals = stored.artefacts(store.Kind.EVAL)
    known = sorted({str(path) for each in evals for path in each.attrs.get("files", [])})
    for path in known:
        if not _is_there(path):
            progress.note(f"leaks of {path}, which an eval used, can't be looked for: the file is gone")
    return TestFiles(tuple(path for path in known if _is_there(path)), given=False)


def _is_there(reference: str) -> bool:
    """Whether it is a file, folder or glob, or a task with its data here or on the Hub."""
    if not names_task(reference):
        return is_there(reference) or local_config(reference) is not None
    place = find_task(reference).path
    return not place or is_there(place)


def _digest(reference: str) -> str:
    """The digest of a file's bytes; for anything else that of its items."""
    if names_task(reference) or not Path(home(reference)).is_file():
        return scan(DataFile(reference), on_error=OnError.SKIP).digest
    return digest_file(Path(home(reference)))


def find_leaks(
    stored: store.Store, data: str, rows: NDArray[np.int64], tests: TestFiles, progress: Progress | None = None
) -> tuple[NDArray[np.bool_], list[dict[str, Any]]]:
    """Whether each of `rows` (ascending) holds a test item (n,) bool, and the pairs as records for a report.

    One pass over the rows' texts; bad rows of the test files are passed over.
    """
    items: list[tuple[str, Row]] = [
        (path, row) for path in tests.paths for row in DataFile(path).rows() if isinstance(row, Row)
    ]
    index = TestItems([text_of(row) for _, row in items])
    row_ids = RowIds(stored.get(f"datasets/{data}"))
    leaked = np.zeros(len(rows), dtype=np.bool_)
    pairs: list[dict[str, Any]] = []
    texts = counted(
        texts_of(stored, data, rows)(), progress or Silent(), "searching for test items", total=len(rows), unit="rows"
    )
    for row, text in texts:
        leak = index.find(text)
        if leak is None:
            continue
        leaked[np.searchsorted(rows, row)] = True
        path, item = items[leak.item]
        pairs.append(
            {
                "row": row,
                "row_id": row_ids[row],
                "test": str(path),
                "test_line": item.line,
                "test_id": item.row_id,
                "why": f"{len(leak.shared.split())} words in a row" if leak.shared else "near-duplicate",
                "shared": leak.shared,
                "row_text": text,
                "test_text": text_of(item),
            }
        )
    return leaked, pairs


def write_report(stored: store.Store, name: str, pairs: Sequence[dict[str, Any]]) -> Path:
    """`reports/<name>-leaks.jsonl` in the store: one line a pair of pool row and test item."""
    path = stored.folder("reports", f"{name}-leaks.jsonl")
    path.parent.mkdir(exist_ok=True)
    store.write_bytes(path, *(json.dumps(pair, ensure_ascii=False).encode() + b"\n" for pair in pairs))
    return path
