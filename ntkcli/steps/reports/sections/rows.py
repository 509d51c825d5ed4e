"""Rows to read: the best, those on either side of the cut, some that were rejected, and the most harmful ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.selection.top import top
from ntkcli.steps.reports.blocks import Block, Column, Notice, Table, Value
from ntkcli.steps.reports.collect import READING, Facts
from ntkcli.steps.reports.sections.choice import damaged, no_score
from ntkcli.steps.selections.why_not import displaced

TOP, EDGE, REJECTED, HARMFUL, KEPT_OUT = 25, 12, 20, 25, 12
SIGNED = ("mean", "exact", "less")
"""Methods whose sign tells whether a step on the row would raise or lower the domain's loss."""
LARGE_POOL = 200_000
"""Rows from which on the exact constraint that kept a row out is not looked for: it may read all chosen texts."""


def rows(facts: Facts) -> list[Block]:
    """One table that sorts, filters and searches."""
    score = facts.score
    if score is None:
        return [no_score(facts)]
    try:
        values = score.read("score")
        order = top(values, score.read("similarity"), len(values))
        chosen = facts.selection.read("row") if facts.selection is not None else np.zeros(0, dtype=np.int64)
        groups = _groups(facts, score, values, order, chosen)
    except READING as error:
        facts.note_damage(score.name, error)
        return [damaged(facts)]
    pool = str(facts.pool)
    facts.load_texts(pool, [row for _, row, _ in groups])
    rank = np.zeros(len(values), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    lines: list[tuple[Value, ...]] = []
    for group, row, why in groups:
        row_id, source, text = facts.row(pool, row)
        lines.append((row_id, group, source, float(values[row]), int(rank[row]) or None, why, text))
    columns = (Column("row"), Column("group"), Column("source"), Column("score", ".4g", True),
               Column("rank", ",", True),
               Column("reason"), Column("text", rows_text=True))  # fmt: skip
    caption = f"{len(lines)} rows of {len(values):,}: best, on either side of the cut, rejected, and lowest"
    table = Table("rows-table", caption, columns, tuple(lines), True, ("group", "source"))
    blocks: list[Block] = [table]
    if len(values) > len(lines):
        blocks.append(
            Notice("sampled", f"Of {len(order):,} scored rows, {len(lines)} are listed; rejected ones by chance.")
        )
    if pool in facts.lost_texts:
        blocks.append(Notice("missing", f"The texts of {pool!r} can't be read: {facts.lost_texts[pool]}"))
    return blocks


def _groups(
    facts: Facts,
    score: store.Artefact,
    values: NDArray[np.float32],
    order: NDArray[np.int64],
    chosen: NDArray[np.int64],
) -> list[tuple[str, int, str]]:
    """(group, row, reason), no row twice."""
    seen: set[int] = set()
    found: list[tuple[str, int, str]] = []

    def add(group: str, row: int, why: str) -> None:
        if row not in seen:
            seen.add(row)
            found.append((group, row, why))

    if len(chosen):
        cut = float(values[chosen].min())
        for rank, row in enumerate(chosen[:TOP].tolist(), start=1):
            add("top", row, f"chosen, {rank} of {len(chosen):,}")
        for row in chosen[-EDGE:].tolist():
            add("borderline", row, f"chosen, {values[row] - cut:.3g} above the lowest chosen score")
        out = order[~np.isin(order, chosen)]
        above = out[values[out] > cut]
        for row in above[:KEPT_OUT].tolist():
            add("rejected", row, _why_not(facts, score, row))
        below = out[values[out] <= cut]
        for row in below[:EDGE].tolist():
            add("borderline", row, f"not chosen, {cut - values[row]:.3g} below the lowest chosen score")
    else:
        for rank, row in enumerate(order[:TOP].tolist(), start=1):
            add("top", row, f"rank {rank} of {len(order):,}; nothing is chosen yet")
        below = order[TOP:]
    signed = str(score.spec.get("method")) in SIGNED
    for row in order[::-1][:HARMFUL].tolist():
        add("most harmful", row, _harm(float(values[row]), signed=signed))
    left = below[EDGE:]
    drawn = np.random.default_rng(0).choice(left, size=min(REJECTED, len(left)), replace=False)
    for row in sorted(drawn.tolist(), key=lambda row: -float(values[row])):
        add("rejected", row, "its score is too low" if len(chosen) else "not looked at yet")
    return found


def _harm(value: float, *, signed: bool) -> str:
    if signed and value < 0:
        return "negative: to first order, a training step on it raises the domain's loss"
    return "one of the lowest scores"


def _why_not(facts: Facts, score: store.Artefact, row: int) -> str:
    """What kept a row out whose score would have done."""
    if facts.selection is None or score.n > LARGE_POOL:
        return "its score would do; a constraint or the method kept it out"
    try:
        return displaced(facts.stored, facts.selection, score, row, None).why
    except READING:
        return "its score would do; a constraint or the method kept it out"
