"""A picture of how scores of one pool agree: the rows' ranks by each pair of scores."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import numpy as np

from ntkcli.scoring.groups import mean_ranks
from ntkcli.steps.scores.agreement import Comparison
from ntkcli.steps.scores.combine import scores_of_one_pool
from ntkcli.steps.shared.pictures import new_figure, write_figure
from ntkcli.steps.shared.stores import open_store

DRAWN: Final = 5000
"""Rows drawn at most: more make one black square, and a file that no viewer opens."""
_COLUMNS, _SIDE = 3, 3.6


def write_plot(path: Path, store_path: str | Path, found: Comparison) -> None:
    """One panel per pair: each row a point at its rank by both scores in percent, the best at 100.

    The top N of both are the corner within the lines. Of more than `DRAWN` rows so many are drawn at random.
    """
    names = [one.score for one in found.scores]
    artefacts = scores_of_one_pool(open_store(store_path), names, option="--compare")
    values = np.stack([artefact.read("score").astype(np.float64) for artefact in artefacts])
    common = np.flatnonzero(~np.isnan(values).any(axis=0))
    ranks = dict(zip(names, (100 * (mean_ranks(one[common]) - 0.5) / len(common) for one in values), strict=True))
    shown = np.arange(len(common))
    if len(shown) > DRAWN:
        shown = np.sort(np.random.default_rng(0).choice(len(shown), DRAWN, replace=False))
    columns = min(_COLUMNS, len(found.pairs))
    lines = math.ceil(len(found.pairs) / columns)
    figure = new_figure(_SIDE * columns, (_SIDE + 0.4) * lines)
    axes = figure.subplots(lines, columns, squeeze=False)
    corner = 100 * (1 - found.n / len(common))
    for axis in axes.flat[len(found.pairs) :]:
        axis.set_visible(False)
    for axis, pair in zip(axes.flat, found.pairs, strict=False):
        axis.plot(
            ranks[pair.first][shown], ranks[pair.second][shown], ".", markersize=2, alpha=0.5, rasterized=True
        )  # points as one picture, also in an .svg
        axis.axvline(corner, linewidth=0.8, color="grey")
        axis.axhline(corner, linewidth=0.8, color="grey")
        axis.set_title(f"Spearman {pair.spearman:+.2f}, top {found.n:,}: {pair.overlap:.0%} in common", fontsize=9)
        axis.set_xlabel(f"rank by {pair.first} (%)".replace("$", r"\$"))
        axis.set_ylabel(f"rank by {pair.second} (%)".replace("$", r"\$"))
        axis.set_xlim(0, 100)
        axis.set_ylim(0, 100)
    of = f", {DRAWN:,} of them drawn" if len(common) > DRAWN else ""
    figure.suptitle(f"{found.pool}: {len(common):,} rows{of}".replace("$", r"\$"), fontsize=10)
    write_figure(path, figure, kind="agreement of scores")
