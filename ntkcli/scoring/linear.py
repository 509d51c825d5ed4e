"""A row's score as a linear function of its feature at its own length: what the score can be split by.

With x the row's raw feature (norm · unit), u = x/|x|, t what `similarity` compares with, m the pool's mean:

    mean              s = <x, t> - <m, t>                             m and its term only when centred
    cosine            s = <x, t> / |x|
    cosine, centred   s = <x, t> / (|x| |u - m|) - <m, t> / |u - m|

Whitened by W, x is W x throughout, so t becomes W t and |x| the length of W x. The term without x belongs to no part
of the row: it is what the pool's mean takes away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ntkcli.scoring.features import FeatureReader, Wide
from ntkcli.scoring.similarity import unit_rows
from ntkcli.scoring.whitening import WhitenedReader, Whitening

METHODS = ("mean", "cosine")


@dataclass(frozen=True, slots=True)
class LinearScore:
    """s = scale · <x, direction> + offset, `direction` (p,) float64."""

    direction: Wide
    scale: float
    offset: float


def linear_scores(
    row: FeatureReader,
    pool: FeatureReader,
    groups: Sequence[FeatureReader],
    *,
    method: str,
    centre: bool,
    whitening: Whitening | None = None,
) -> list[LinearScore]:
    """One for each group of domain rows, of the only row that `row` reads; `whitening` is that of all sides.

    Methods of `METHODS`. A pass over the pool when `centre`.
    """
    if whitening is not None:
        row, pool, *groups = (WhitenedReader.of(each, whitening) for each in (row, pool, *groups))
    (block,) = (block for block in row.blocks() if len(block.rows))
    unit, norm = block.unit[0].astype(np.float64), float(block.norm[0])
    raw = method == "mean"
    mean = pool.mean(raw=raw) if centre else np.zeros(len(unit))
    found = []
    for group in groups:
        if raw:
            target = group.mean(raw=True) - mean
        elif centre:
            target = unit_rows(group.unit_rows() - mean.astype(np.float32)).mean(axis=0, dtype=np.float64)
        else:
            target = group.mean(raw=False)
        length = 1.0 if raw else norm
        shrunk = float(np.linalg.norm(unit - mean)) if centre and not raw else 1.0
        direction = target if whitening is None else whitening.of(target[None])[0]
        found.append(
            LinearScore(
                direction, 1 / (length * shrunk) if length * shrunk else 0.0, -float(mean @ target) / (shrunk or 1.0)
            )
        )
    return found
