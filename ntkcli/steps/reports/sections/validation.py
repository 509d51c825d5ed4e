"""Validations: whether training on rows that a score likes lowers the loss on the test items, and by how much.

Read by the arrays that docs/store-format.md names for `validations/`; a store without that kind has none.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.statistics.validation import dose_response, linear_datamodeling_score, worst_for_diverged
from ntkcli.steps.reports import plots
from ntkcli.steps.reports.blocks import Block, Column, Notice, Plot, Table, Value
from ntkcli.steps.reports.collect import READING, Facts
from ntkcli.steps.validation.measures import joined

Arrays = Mapping[str, NDArray[Any]]
ARRAYS = ("design", "score", "bin", "seed", "sums", "nats", "diverged")
DOSE, SUBSETS = "bin", ("uniform", "mixture")
"""Names of designs: runs on one bin of a score, and runs on subsets drawn for the LDS."""


def validation(facts: Facts) -> list[Block]:
    """Dose and response, and LDS, of every finished validation."""
    blocks: list[Block] = []
    for artefact in facts.of_kind("validation"):
        try:
            folds = np.array(artefact.attrs["item_fold"]) if "item_fold" in artefact.attrs else None
            arrays = joined({name: artefact.read(name) for name in ARRAYS}, folds)
            blocks += validation_blocks(artefact.name.partition("/")[2], arrays, artefact.attrs)
        except READING as error:
            facts.note_damage(artefact.name, error)
    blocks += [
        Notice("missing", f"{made.name} has {made.done:,} of {made.rows:,} runs; the same command goes on.")
        for made in facts.unfinished("validation")
    ]
    if blocks:
        return blocks
    text = "No finished validation is in the store: whether these scores predict what training does was not measured."
    known = "validation" in {str(kind) for kind in store.Kind}
    score = "SCORE" if facts.score is None else facts.score.name.partition("/")[2]
    options = f"--score {score} --model MODEL --domain DATA --task FILE --name V"
    return [
        Notice("missing", text, f"ntksel validate {shlex.quote(str(facts.stored.path))} {options}" if known else "")
    ]


def validation_blocks(name: str, arrays: Arrays, attrs: Mapping[str, Any]) -> list[Block]:
    """The plots of one validation; losses are means over all its items, and runs that diverged count as the worst."""
    designs, scores = [str(one) for one in attrs["designs"]], [str(one) for one in attrs["scores"]]
    losses = worst_for_diverged(arrays["nats"].astype(np.float64))
    folds = np.array(attrs["item_fold"]) if "item_fold" in attrs else None
    blocks: list[Block] = []
    in_bins = arrays["design"] == (designs.index(DOSE) if DOSE in designs else -1)
    for s, score in enumerate(scores):
        own = in_bins & (arrays["score"] == s)
        if own.any():
            blocks.append(_dose(name, score, arrays["bin"][own], arrays["seed"][own], losses[own], folds))
    in_subsets = np.isin(arrays["design"], [designs.index(one) for one in SUBSETS if one in designs])
    if in_subsets.sum() >= 3:
        mean = np.where(arrays["diverged"] > 0, np.inf, losses.mean(axis=1))[in_subsets]
        found = [
            linear_datamodeling_score(arrays["sums"][in_subsets, s].astype(np.float64), mean)
            for s in range(len(scores))
        ]
        dots = [plots.Interval(score, one.value, one.low, one.high) for score, one in zip(scores, found, strict=True)]
        best = max(dots, key=lambda dot: dot.value)
        said = (
            f"LDS of “{name}” over {int(in_subsets.sum())} subsets, with 95% intervals: the rank correlation of summed "
        )
        said += (
            f"scores and measured gain. Highest: {best.label}, {best.value:.3f} ({best.low:.3f} to {best.high:.3f}). "
        )
        said += "An interval that holds 0 shows no effect."
        lines: list[tuple[Value, ...]] = [
            (dot.label, dot.value, dot.low, dot.high, one.p) for dot, one in zip(dots, found, strict=True)
        ]
        columns = (Column("score"), *(Column(each, ".3f", True) for each in ("LDS", "low", "high", "p")))
        table = Table(f"lds-{name}-table", f"LDS of “{name}”", columns, tuple(lines))
        figure = plots.intervals(dots, x="LDS", at=0.0)
        blocks.append(Plot(f"lds-{name}", f"“{name}”: LDS", said, figure, table, 130 + 44 * len(dots)))
    return blocks or [Notice("missing", f"validations/{name} has neither bins nor subsets to draw.")]


def _dose(
    name: str, score: str, bins: NDArray[Any], seeds: NDArray[Any], losses: NDArray[np.float64],
    folds: NDArray[np.int64] | None,
) -> Plot:  # fmt: skip
    found = dose_response(bins, seeds, losses, folds_I=folds)
    holds = found.slope_low <= 0 <= found.slope_high
    said = f"Loss after training on each fifth of “{score}”, best first" if len(found.bins) == 5 else (
        f"Loss after training on each of {len(found.bins)} bins of “{score}”, best first"
    )  # fmt: skip
    said += f": it rises by {found.slope:.4f} nats from best to worst (95% interval {found.slope_low:.4f} to "
    said += f"{found.slope_high:.4f}, p {found.p:.3f})"
    said += "; the interval holds 0, so no effect is shown." if holds else "."
    dots = [
        plots.Interval(f"bin {i}", *ends)
        for i, ends in enumerate(zip(found.bins, found.lows, found.highs, strict=True), start=1)
    ]
    columns = (Column("bin, best first"), *(Column(each, ".4f", True) for each in ("loss", "low", "high")))
    lines = tuple((dot.label, dot.value, dot.low, dot.high) for dot in dots)
    table = Table(f"dose-{name}-{score}-table", f"Loss by bin of “{score}”", columns, lines)
    figure = plots.intervals(dots, x="loss (nats)")
    return Plot(
        f"dose-{name}-{score}", f"“{name}”: dose and response of “{score}”", said, figure, table, 130 + 40 * len(dots)
    )
