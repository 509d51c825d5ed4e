"""The best rows, each with the domain rows whose features are nearest to it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ntkcli.steps.reports.blocks import Block, Notice, Panel, Panels, Paragraph
from ntkcli.steps.reports.collect import READING, Facts
from ntkcli.steps.reports.sample import sample
from ntkcli.steps.reports.sections.choice import no_selection
from ntkcli.steps.reports.sections.vectors import features_of_score, no_features

TOP, NEAREST = 6, 3
DOMAIN_ROWS = 4000
"""Domain rows compared, at most."""


def neighbours(facts: Facts) -> list[Block]:
    """Panels for the first rows of the selection."""
    if facts.selection is None:
        return [no_selection(facts)]
    found = features_of_score(facts)
    if found is None or not found[1]:
        return [no_features(facts)]
    pool, domain = found[0], found[1][0]
    try:
        best = sample(pool, most=TOP, only=facts.selection.read("row"))
        near = sample(domain, most=DOMAIN_ROWS)
        similar = _unit(best.unit) @ _unit(near.unit).T
    except READING as error:
        facts.note_damage(pool.name, error)
        return [Notice("damaged", f"{pool.name} or {domain.name} can't be read.", facts.repair)]
    if not similar.size:
        return [Notice("missing", f"{pool.name} has no features of the rows that were chosen.")]
    order = np.argsort(-similar, axis=1, kind="stable")[:, :NEAREST]
    data, name = domain.name.split("/")[1], str(facts.pool)
    facts.load_texts(data, near.rows[np.unique(order)].tolist())
    facts.load_texts(name, best.rows.tolist())
    panels = []
    for i, row in enumerate(best.rows.tolist()):
        row_id, _, text = facts.row(name, row)
        closest = []
        for j in order[i].tolist():
            other, _, said = facts.row(data, int(near.rows[j]))
            closest.append((other, float(similar[i, j]), said))
        panels.append(Panel(row_id, text, tuple(closest)))
    lead = (
        f"The first {len(panels)} chosen rows, each with the {NEAREST} rows of “{data}” whose features are most alike "
    )
    lead += "(cosine of the stored features; 1 = the same direction)."
    more: list[Block] = []
    if near.of > len(near.rows):
        more.append(Notice("sampled", f"Compared with {len(near.rows):,} of {near.of:,} domain rows."))
    return [Paragraph(lead), Panels(tuple(panels)), *more]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length 1: a sketch of a unit gradient is of that length in the mean alone."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: NDArray[np.float32] = (vectors / np.where(length > 0, length, 1)).astype(np.float32)
    return found
