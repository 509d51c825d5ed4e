"""Select rows by their score, keep the selection, and export the rows themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import store
from ntkcli.data import Row, pick
from ntkcli.errors import UsageError
from ntkcli.progress import Progress, Silent
from ntkcli.selection.top import top
from ntkcli.steps.inputs import DATASET_PART_ROWS, data_file, open_store, write_rows

VERSION = 1
"""Of the selectors, in every spec: goes up when the same scores would give other rows."""
METHODS = ("top",)


@dataclass(frozen=True, slots=True)
class SelectResult:
    """The artefact, its number of rows out of those scored, the lowest score taken, the mix, and the export."""

    artefact: str
    rows: int
    scored: int
    lowest: float
    sources: dict[str, int]
    export: str | None
    digest: str


def select(
    store_path: str | Path,
    *,
    score: str,
    n: int,
    name: str,
    method: str = "top",
    export: str | Path | None = None,
    progress: Progress | None = None,
) -> SelectResult:
    """Write `selections/<name>`: the `n` best rows of `scores/<score>` in rank order, and export them as JSONL.

    The export has the pool's own columns and `ntksel_score`, `ntksel_rank` (from 1).

    Raises:
        UsageError: `n` is larger than the number of scored rows.
    """
    progress = progress or Silent()
    if method not in METHODS:
        raise UsageError(f"--method {method} is not known.", f"Give one of: {', '.join(METHODS)}.")
    stored = open_store(store_path)
    scores = stored.get(f"scores/{store.check_name(score, '--score')}")
    stored.check_parents(scores)
    values, similarity = scores.read("score"), scores.read("similarity")
    scored = int((~np.isnan(values)).sum())
    if not 1 <= n <= scored:
        raise UsageError(
            f"-n {n}: {scores.name} has {scored} scored rows of {scores.n}.", f"Give -n from 1 to {scored}."
        )
    data = str(scores.attrs["data"])
    artefact = stored.create(
        f"selections/{store.check_name(name, '--name')}",
        kind=store.Kind.SELECTION,
        spec={"version": VERSION, "score": scores.fingerprint, "method": method, "n": n},
        parents={scores.name: scores.fingerprint},
        n=n,
        part_rows=DATASET_PART_ROWS,
        arrays={"row": store.ArraySpec("int64"), "score": store.ArraySpec("float32")},
        attrs={"data": data},
    )
    if artefact.complete:
        progress.note(f"{artefact.name} is finished already")
    else:
        rows = top(values, similarity, n)
        write_rows(artefact, {"row": rows, "score": values[rows]})
    dataset = stored.get(f"datasets/{data}")
    if export is not None:
        _export(stored, dataset, artefact, Path(export))
        progress.note(f"wrote {export}")
    return SelectResult(
        artefact=artefact.name,
        rows=n,
        scored=scored,
        lowest=float(artefact.read("score").min()),
        sources=_mix(dataset, artefact),
        export=None if export is None else str(export),
        digest=artefact.digest(),
    )


def _export(stored: store.Store, dataset: store.Artefact, selection: store.Artefact, path: Path) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"--export {path}: there is no folder {path.parent}.", "Make it first.")
    rows, scores = selection.read("row"), selection.read("score")
    rank_of = {int(row): rank for rank, row in enumerate(rows)}
    lines: list[bytes] = [b""] * len(rows)
    for row in pick(data_file(stored, dataset), rows.tolist()):
        rank = rank_of[row.index]
        lines[rank] = _line(row, float(scores[rank]), rank + 1)
    store.write_bytes(path, *lines)


def _line(row: Row, score: float, rank: int) -> bytes:
    record = {**row.raw, "ntksel_score": score, "ntksel_rank": rank}
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _mix(dataset: store.Artefact, selection: store.Artefact) -> dict[str, int]:
    """Rows by source label, most first; labels are the data set's own, "" when it has none."""
    labels = dataset.attrs["sources"]
    codes, counts = np.unique(dataset.take("source", selection.read("row")), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {str(labels[codes[i]]): int(counts[i]) for i in order}
