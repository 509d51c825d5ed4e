"""How the selection came about: the funnel, the scores with their cut, and the sources before and after."""

from __future__ import annotations

import shlex

import numpy as np

import store
from ntkcli.steps.reports import plots
from ntkcli.steps.reports.blocks import Block, Column, Notice, Paragraph, Plot, Table
from ntkcli.steps.reports.collect import Facts

BINS = 60
MOST_SCORES = 6
"""Histograms shown, the newest ones; more are noise on a page."""
MOST_SOURCES = 20


def funnel(facts: Facts) -> list[Block]:
    """How many rows each step left."""
    pool = None if facts.pool is None else facts.dataset(facts.pool)
    if pool is None:
        return [no_score(facts) if facts.score is None and facts.selection is None else no_data(facts)]
    stages = [("rows in the pool", pool.n)]
    usable = facts.attempt(pool.name, lambda: int((pool.read("status") < store.RowStatus.UNREADABLE).sum()))
    stages += [] if usable is None else [("usable rows", usable)]
    if facts.score is not None:
        score = facts.score
        scored = facts.attempt(score.name, lambda: int(np.isfinite(score.read("score")).sum()))
        stages += [] if scored is None else [("rows with a score", scored)]
    blocks: list[Block] = []
    if facts.selection is None:
        blocks.append(no_selection(facts))
    else:
        stages.append(("chosen rows", facts.selection.n))
    pairs = zip(stages, [stages[0], *stages], strict=False)
    lines = tuple((name, count, count / max(1, before), count / max(1, pool.n)) for (name, count), (_, before) in pairs)
    columns = (Column("stage"), Column("rows", ",", True), Column("of the stage before", ".2%", True),
               Column("of the pool", ".2%", True))  # fmt: skip
    said = " → ".join(f"{count:,} {name}" for name, count in stages) + "."
    table = Table("funnel-table", "Rows left at each stage", columns, lines)
    height = 70 + 56 * len(stages)
    return [
        Plot("funnel-plot", "Rows left at each stage", said, plots.funnel(stages), table, height),
        *blocks,
        *_limits(facts),
    ]


def scores(facts: Facts) -> list[Block]:
    """A histogram of each score; the chosen part of it in colour, with the cut."""
    found = list(facts.of_kind("score"))
    if not found:
        return [no_score(facts)]
    ended = {made.name: made.ended for made in facts.made}
    mine = facts.score.name if facts.score is not None else ""
    found.sort(key=lambda artefact: (artefact.name != mine, -ended[artefact.name], artefact.name))
    blocks: list[Block] = []
    for score in found[:MOST_SCORES]:
        plot = facts.attempt(score.name, _histogram, facts, score)
        if plot is not None:
            blocks.append(plot)
    if len(found) > MOST_SCORES:
        blocks.append(Notice("sampled", f"{len(found) - MOST_SCORES} older scores are not drawn."))
    return blocks


def sources(facts: Facts) -> list[Block]:
    """Shares of the sources in the pool and in the selection."""
    selection, pool = facts.selection, None if facts.pool is None else facts.dataset(facts.pool)
    if selection is None:
        return [no_selection(facts)]
    if pool is None:
        return [no_data(facts)]
    codes = facts.attempt(pool.name, lambda: pool.read("source"))
    chosen = facts.attempt(selection.name, lambda: selection.read("row"))
    if codes is None or chosen is None:
        return [damaged(facts)]
    names = [str(name) or "(no label)" for name in pool.attrs["sources"]]
    before = np.bincount(codes, minlength=len(names))
    after = np.bincount(codes[chosen], minlength=len(names))
    if len(names) < 2:
        return [Paragraph(f"All {pool.n:,} rows of the pool have one source: {names[0] if names else '(no label)'}.")]
    order = np.argsort(-(before / max(1, before.sum()) + after / max(1, after.sum())), kind="stable")
    lines = [
        (names[i], int(before[i]), before[i] / before.sum(), int(after[i]), after[i] / max(1, after.sum()))
        for i in order
    ]
    if len(lines) > MOST_SOURCES:
        rest = order[MOST_SOURCES:]
        b, a = int(before[rest].sum()), int(after[rest].sum())
        lines = [*lines[:MOST_SOURCES], (f"{len(rest)} others", b, b / before.sum(), a, a / max(1, after.sum()))]
    columns = (Column("source"), Column("rows in pool", ",", True), Column("share of pool", ".1%", True),
               Column("rows chosen", ",", True), Column("share of selection", ".1%", True))  # fmt: skip
    most = max(lines, key=lambda line: line[4] - line[2])
    said = f"The share of “{most[0]}” grows most: {most[2]:.1%} of the pool, {most[4]:.1%} of the selection."
    figure = plots.dumbbell([line[0] for line in lines], [line[2] for line in lines], [line[4] for line in lines])
    table = Table("sources-table", "Rows by source", columns, tuple(lines), explore=True)
    return [Plot("sources-plot", "Share of each source", said, figure, table, 130 + 30 * len(lines))]


def no_score(facts: Facts) -> Notice:
    """There is nothing to choose from yet, or the selection's score is gone."""
    line = f"ntksel score {_path(facts)} --pool POOL --domain DOMAIN --name SCORE"
    if facts.selection is not None:
        gone = next((name for name in facts.selection.parents if name.startswith("scores/")), "its score")
        text = f"{facts.selection.name} was made by {gone}, which is no longer in the store."
        return Notice("missing", text, line.replace("SCORE", gone.partition("/")[2] or "SCORE"))
    return Notice("missing", "No finished score is in the store.", line)


def no_selection(facts: Facts) -> Notice:
    """Nothing is chosen yet."""
    score = "SCORE" if facts.score is None else facts.score.name.partition("/")[2]
    line = f"ntksel select {_path(facts)} --score {score} -n ROWS --name SELECTION"
    return Notice("missing", "No finished selection is in the store.", line)


def no_data(facts: Facts) -> Notice:
    """The pool's data set is gone."""
    line = f"ntksel featurize {_path(facts)} --data FILE --name {facts.pool or 'POOL'} ..."
    return Notice("missing", f"The data set {facts.pool!r} can't be read.", line)


def damaged(facts: Facts) -> Notice:
    """Something this section needs can't be read; the list at the top names it."""
    return Notice("damaged", "What this section shows can't be read.", facts.repair)


def _limits(facts: Facts) -> list[Block]:
    spec = {} if facts.selection is None else facts.selection.spec
    keys = ("max_per_source", "min_per_source", "token_budget", "min_tokens", "max_tokens", "dedup", "exclude",
            "must_include", "against")  # fmt: skip
    used = [f"--{key.replace('_', '-')}" for key in keys if key in spec]
    method = f"The rows were chosen by the method {spec['method']!r}" if "method" in spec else ""
    limits = f"; constraints: {', '.join(used)}." if used else " without constraints."
    return [Paragraph(method + limits)] if method else []


def _histogram(facts: Facts, score: store.Artefact) -> Plot:
    values = score.read("score").astype(np.float64)
    scored = np.isfinite(values)
    selection = facts.selection if facts.selection is not None and score.name in facts.selection.parents else None
    rows = selection.read("row") if selection is not None else np.zeros(0, dtype=np.int64)
    held = values[scored]
    low, high = (float(held.min()), float(held.max())) if len(held) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    counts, chosen = np.histogram(held, edges)[0], np.histogram(values[rows], edges)[0]
    cut = float(values[rows].min()) if len(rows) else None
    name = score.name.partition("/")[2]
    said = f"{len(held):,} of {len(values):,} rows have the score “{name}” ({score.spec['method']})"
    if len(held):
        said += f": from {low:.4g} to {high:.4g}, half of them below {np.median(held):.4g}"
    said += "." if cut is None else f". The {len(rows):,} chosen rows begin at {cut:.4g}."
    columns = (
        Column("from", ".4g", True),
        Column("to", ".4g", True),
        Column("rows", ",", True),
        Column("chosen", ",", True),
    )
    wide = zip(edges[:-1:4], edges[4::4], counts.reshape(-1, 4).sum(1), chosen.reshape(-1, 4).sum(1), strict=True)
    lines = tuple((float(a), float(b), int(c), int(d)) for a, b, c, d in wide)
    table = Table(f"score-{name}-table", f"Rows by score “{name}”", columns, lines)
    return Plot(f"score-{name}", f"Score “{name}”", said, plots.histogram(edges, counts, chosen, cut), table, 300)


def _path(facts: Facts) -> str:
    return shlex.quote(str(facts.stored.path))
