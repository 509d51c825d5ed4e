"""Write a selection's rows as a file for training: the pool's own columns, with score and rank."""

from __future__ import annotations

import json
from pathlib import Path

import store
from ntkcli.data import Row, pick
from ntkcli.errors import UsageError
from ntkcli.steps.inputs import data_file


def export_rows(stored: store.Store, dataset: store.Artefact, selection: store.Artefact, path: Path) -> None:
    """JSON Lines in rank order: the pool's own columns and `ntksel_score`, `ntksel_rank` (from 1)."""
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
