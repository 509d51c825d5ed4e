"""Figures by plotly. Colours are the page's CSS variables, so that a figure follows the page's light or dark scheme."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ntkcli.steps.diagnosis.findings import Distributions, Line, Lines
from ntkcli.steps.diagnosis.plot import log_ticks
from ntkcli.steps.reports.texts import plot_label

MUTED, ACCENT, SECOND, THIRD = "var(--muted-mark)", "var(--accent)", "var(--second)", "var(--third)"
SERIES = (ACCENT, SECOND, THIRD, "var(--fourth)", MUTED)
DASHES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its interval, and its label."""

    label: str
    value: float
    low: float
    high: float


def _figure(data: Sequence[Any], *, x: str, y: str = "", **layout: Any) -> dict[str, Any]:
    import plotly.graph_objects as go

    figure = go.Figure(data=list(data))
    figure.update_layout(template="none", xaxis_title_text=x, yaxis_title_text=y, **layout)
    found: dict[str, Any] = json.loads(figure.to_json())
    found["layout"].pop("template", None)
    return found


def histogram(edges: NDArray[Any], all_rows: NDArray[Any], chosen: NDArray[Any], cut: float | None) -> dict[str, Any]:
    """Counts of all rows and of chosen rows by bin of a score; a line at the cut."""
    import plotly.graph_objects as go

    middle, width = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
    bars = [
        go.Bar(x=middle.tolist(), y=counts.tolist(), width=width.tolist(), name=name, marker_color=colour,
               marker_line_width=0)
        for name, counts, colour in (("not chosen", all_rows - chosen, MUTED), ("chosen", chosen, ACCENT))
        if name == "not chosen" or chosen.any()
    ]  # fmt: skip
    layout: dict[str, Any] = {"barmode": "stack", "bargap": 0.08}
    if cut is not None:
        layout |= _cut(cut, "lowest chosen")
    return _figure(bars, x="score", y="rows", **layout)


def _cut(at: float, text: str) -> dict[str, Any]:
    """A dotted line across the figure, with its name."""
    line = {"color": "var(--ink)", "width": 1.5, "dash": "dot"}
    return {
        "shapes": [{"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper", "line": line}],
        "annotations": [{"x": at, "y": 1, "yref": "paper", "text": text, "showarrow": False, "xanchor": "left",
                         "yanchor": "top", "xshift": 6}],
    }  # fmt: skip


def funnel(stages: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """One bar for each stage, the last one in colour."""
    import plotly.graph_objects as go

    names = [plot_label(name) for name, _ in stages]
    counts = [count for _, count in stages]
    colours = [MUTED] * (len(stages) - 1) + [ACCENT]
    bar = go.Bar(
        x=counts, y=names, orientation="h", marker_color=colours, text=[f"{count:,}" for count in counts],
        textposition="outside", cliponaxis=False, hoverinfo="skip", showlegend=False,
    )  # fmt: skip
    return _figure([bar], x="rows", yaxis_autorange="reversed", bargap=0.4)


def dumbbell(names: Sequence[str], before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    """Shares before and after, a line between the two dots of a name."""
    import plotly.graph_objects as go

    labels = [plot_label(name, 30) for name in names]
    lines: list[Any] = []
    for label, low, high in zip(labels, before, after, strict=True):
        lines.append(go.Scatter(x=[low, high], y=[label, label], mode="lines", line_color="var(--rule-strong)",
                                line_width=2, hoverinfo="skip", showlegend=False))  # fmt: skip
    dots = [
        go.Scatter(x=list(values), y=labels, mode="markers", name=name, marker_color=colour, marker_size=11,
                   marker_symbol=symbol, cliponaxis=False, hovertemplate="%{x:.1%}<extra>" + name + "</extra>")
        for name, values, colour, symbol in (("pool", before, MUTED, "circle"), ("selection", after, ACCENT, "diamond"))
    ]  # fmt: skip
    return _figure([*lines, *dots], x="share of rows", xaxis_tickformat=".0%", yaxis_autorange="reversed",
                   xaxis_rangemode="tozero")  # fmt: skip


def scatter_map(groups: Mapping[str, tuple[NDArray[Any], Sequence[str]]], *, axes: tuple[str, str]) -> dict[str, Any]:
    """Points of each group (its coordinates and its hover texts, which are escaped already)."""
    import plotly.graph_objects as go

    marks = {
        "pool": (MUTED, "circle", 6, 0.55),
        "selected": (ACCENT, "diamond", 8, 0.9),
        "domain": (SECOND, "cross", 8, 0.9),
    }
    points = []
    for name, (xy, texts) in groups.items():
        colour, symbol, size, opacity = marks[name]
        points.append(
            go.Scatter(
                x=np.round(xy[:, 0], 5).tolist(), y=np.round(xy[:, 1], 5).tolist(), mode="markers", name=name,
                hovertext=list(texts), hoverinfo="text", marker_color=colour, marker_symbol=symbol, marker_size=size,
                marker_opacity=opacity,
            )
        )  # fmt: skip
    return _figure(points, x=axes[0], y=axes[1], hovermode="closest")


def curves(series: Mapping[str, tuple[Sequence[int], Sequence[float], bool]]) -> dict[str, Any]:
    """Lines by name: (steps, values, whether it is a held-out loss: dots)."""
    import plotly.graph_objects as go

    lines: list[Any] = []
    colours: dict[str, int] = {}
    for name, (steps, values, held_out) in series.items():
        run = name.partition(" (")[0]
        i = colours.setdefault(run, len(colours))
        lines.append(
            go.Scatter(
                x=list(steps), y=[round(value, 5) for value in values], name=plot_label(name),
                mode="markers" if held_out else "lines", marker_size=8, marker_symbol="diamond-open",
                line_color=SERIES[i % len(SERIES)], line_dash=DASHES[i // len(SERIES) % len(DASHES)],
                marker_color=SERIES[i % len(SERIES)],
            )
        )  # fmt: skip
    return _figure(lines, x="step", y="loss (nats per token)")


def lines(panel: Lines) -> dict[str, Any]:
    """A line with dots for each of the panel's, with intervals where it has some."""
    import plotly.graph_objects as go

    made: list[Any] = []
    for i, line in enumerate(panel.lines):
        colour, dash = SERIES[i % len(SERIES)], DASHES[i // len(SERIES) % len(DASHES)]
        made.append(
            go.Scatter(
                x=list(line.x), y=list(line.y), name=plot_label(line.label), mode="lines+markers", line_color=colour,
                line_dash=dash, marker_color=colour, marker_size=8, error_y=_spread(line) if line.lows else None,
            )
        )  # fmt: skip
    layout: dict[str, Any] = {}
    if panel.log_x:
        ticks = log_ticks([x for line in panel.lines for x in line.x])
        layout = {"xaxis_type": "log", "xaxis_tickvals": ticks, "xaxis_ticktext": [f"{tick:,g}" for tick in ticks]}
    return _figure(made, x=panel.x, y=panel.y, **layout)


def _spread(line: Line) -> dict[str, Any]:
    return {
        "type": "data", "symmetric": False, "thickness": 1.5, "width": 4,
        "array": [high - y for y, high in zip(line.y, line.highs, strict=True)],
        "arrayminus": [y - low for y, low in zip(line.y, line.lows, strict=True)],
    }  # fmt: skip


def densities(panel: Distributions) -> dict[str, Any]:
    """The histograms over each other; a line at the cut."""
    import plotly.graph_objects as go

    edges = np.array(panel.edges)
    middle, width = ((edges[:-1] + edges[1:]) / 2).tolist(), np.diff(edges).tolist()
    made: list[Any] = [
        go.Bar(x=middle, y=list(values), width=width, name=plot_label(label), marker_color=colour, opacity=0.65)
        for label, values, colour in zip(panel.labels, panel.densities, SERIES, strict=False)
    ]
    return _figure(made, x=panel.x, y="density", barmode="overlay", **_cut(panel.cut, "cut"))


def intervals(found: Sequence[Interval], *, x: str, at: float | None = None, percent: bool = False) -> dict[str, Any]:
    """A dot with its interval for each label, from top to bottom; a dotted line at the baseline's value."""
    import plotly.graph_objects as go

    dots = go.Scatter(
        x=[one.value for one in found], y=[plot_label(one.label, 30) for one in found], mode="markers",
        marker_color=ACCENT, marker_size=10, showlegend=False,
        error_x={"type": "data", "symmetric": False, "array": [one.high - one.value for one in found],
                 "arrayminus": [one.value - one.low for one in found], "color": ACCENT, "thickness": 2, "width": 5},
    )  # fmt: skip
    layout: dict[str, Any] = {"yaxis_autorange": "reversed", "xaxis_tickformat": ".1%" if percent else None}
    if at is not None:
        line = {"color": "var(--muted)", "width": 1, "dash": "dot"}
        layout["shapes"] = [{"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper", "line": line}]
    return _figure([dots], x=x, **layout)
