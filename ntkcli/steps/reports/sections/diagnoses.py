"""What `ntksel diagnose` found and kept in the store: figures with intervals and sentences, and their plots."""

from __future__ import annotations

import shlex

import store
from ntkcli.steps.diagnosis.findings import Check, Distributions, Lines, Panel, Points
from ntkcli.steps.diagnosis.keep import is_result, kept
from ntkcli.steps.reports import plots
from ntkcli.steps.reports.blocks import Block, Column, Notice, Paragraph, Plot, Table, Value
from ntkcli.steps.reports.collect import Facts
from ntkcli.steps.reports.sections.commands import diagnose_words

MOST = 3
"""Results of each diagnosis, the newest ones: of other rows, models or runs."""
_INTERVAL = (Column("value", ".4g", True), Column("low", ".4g", True), Column("high", ".4g", True))


def diagnoses(facts: Facts) -> list[Block]:
    """The newest results of each diagnosis, each as a table with its sentences and plots."""
    ended = {made.name: made.ended for made in facts.made}
    by_check: dict[str, list[store.Artefact]] = {}
    for artefact in sorted(facts.of_kind("diagnosis"), key=lambda one: -ended[one.name]):
        if is_result(artefact):
            by_check.setdefault(str(artefact.spec.get("diagnosis")), []).append(artefact)
    blocks: list[Block] = []
    for check, found in sorted(by_check.items()):
        for artefact in found[:MOST]:
            blocks += facts.attempt(artefact.name, _result, artefact) or []
        if len(found) > MOST:
            text = f"{len(found) - MOST} older results of diagnose {check} are not shown."
            blocks.append(Notice("sampled", text))
    blocks += [
        Notice("missing", f"{made.name} is unfinished, {made.done:,} of {made.rows:,}; the same command goes on.")
        for made in facts.unfinished("diagnosis")
    ]
    if blocks:
        return blocks
    text = "No diagnosis is in the store: whether its kernel and scores can be trusted on this model was not checked."
    return [Notice("missing", text, f"ntksel diagnose {shlex.quote(str(facts.stored.path))} length")]


def _result(artefact: store.Artefact) -> list[Block]:
    checks, panels = kept(artefact)
    name = artefact.name.partition("/")[2]
    title = f"diagnose {shlex.join(diagnose_words(artefact))}"
    lines = tuple((one.subject, one.value, one.low, one.high) for one in checks)
    table = Table(f"{name}-table", title, (Column("of"), *_INTERVAL), lines)
    return [table, *(Paragraph(one.sentence) for one in checks), *_plots(name, checks, panels)]


def _plots(name: str, checks: tuple[Check, ...], panels: tuple[Panel, ...]) -> list[Plot]:
    made = []
    for i, panel in enumerate(panels):
        made.append(_plot(f"{name}-{i}", checks[0].name, panel))
    return made


def _plot(plot_id: str, check: str, panel: Panel) -> Plot:
    title, table_id = f"{check.capitalize()}: {panel.title}", f"{plot_id}-table"
    match panel:
        case Lines():
            labels = ", ".join(line.label for line in panel.lines)
            said = f"{_begun(panel.y or 'Values')} by {panel.x}: {labels}."
            if any(line.lows for line in panel.lines):
                said += " Bars are 95% intervals."
            heads = (Column("line"), Column(panel.x, ",.6g", True), *_INTERVAL)
            table = Table(table_id, title, heads, tuple(_points_of(panel)))
            return Plot(plot_id, title, said, plots.lines(panel), table, 400)
        case Points():
            dots = [
                plots.Interval(*each) for each in zip(panel.labels, panel.values, panel.lows, panel.highs, strict=True)
            ]
            values = ", ".join(f"{dot.label} {dot.value:.3g}" for dot in dots)
            said = f"{_begun(panel.y)} with 95% intervals: {values}."
            rows = tuple((dot.label, dot.value, dot.low, dot.high) for dot in dots)
            table = Table(table_id, title, (Column("of"), *_INTERVAL), rows)
            figure = plots.intervals(dots, x=panel.y, at=panel.mark)
            return Plot(plot_id, title, said, figure, table, 130 + 44 * len(dots))
        case Distributions():
            said = f"Distributions of the {panel.x}: {', '.join(panel.labels)}; dotted: the cut at {panel.cut:.3g}."
            columns = (Column("from", ".3g", True), Column("to", ".3g", True),
                       *(Column(label, ".3g", True) for label in panel.labels))  # fmt: skip
            bins = zip(panel.edges[:-1], panel.edges[1:], *panel.densities, strict=True)
            return Plot(plot_id, title, said, plots.densities(panel), Table(table_id, title, columns, tuple(bins)), 340)


def _begun(text: str) -> str:
    """The text as the beginning of a sentence."""
    return text[:1].upper() + text[1:]


def _points_of(panel: Lines) -> list[tuple[Value, ...]]:
    found: list[tuple[Value, ...]] = []
    for line in panel.lines:
        ends = zip(line.lows, line.highs, strict=True) if line.lows else [(None, None)] * len(line.x)
        found += [(line.label, x, y, low, high) for x, y, (low, high) in zip(line.x, line.y, ends, strict=True)]
    return found
