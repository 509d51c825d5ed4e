"""The panels of a diagnosis as a picture (.png, .svg), with matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ntkcli.errors import UsageError
from ntkcli.steps.diagnosis.findings import Distributions, Lines, Panel, Points
from ntkcli.steps.shared.outputs import Inputs, check_output, write_output
from ntkcli.steps.shared.stores import is_store, open_store

KINDS = (".png", ".svg")


def check_plot(store_path: str | Path, path: Path, *, inputs: Inputs, force: bool) -> None:
    """UsageError, before anything runs, for a file of another kind or that must not be written; without matplotlib."""
    if path.suffix not in KINDS:
        raise UsageError(f"--plot {path}: its ending is not known.", f"Give a name in {' or '.join(KINDS)}.")
    stored = open_store(store_path) if is_store(store_path) else None
    check_output(path, option="--plot", inputs=inputs, stored=stored, force=force)
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError("--plot needs the package matplotlib.", "Run `pip install 'ntksel[plot]'`.") from error


def write_plot(path: Path, panels: Sequence[Panel]) -> None:
    """All panels below each other."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, panel in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        match panel:
            case Lines():
                _lines(axis, panel)
            case Points():
                _points(axis, panel)
            case Distributions():
                _distributions(axis, panel)
        axis.set_title(_plain(panel.title))
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:], dpi=150)
    write_output(path, picture.getvalue(), {"kind": "diagnosis"})


def _lines(axis: Any, panel: Lines) -> None:
    for line in panel.lines:
        if line.lows:
            axis.errorbar(
                line.x, line.y, _spread(line.y, line.lows, line.highs), marker="o", capsize=3, label=_plain(line.label)
            )
        else:
            axis.plot(line.x, line.y, marker="o", label=_plain(line.label))
    if panel.log_x:
        ticks = log_ticks([x for line in panel.lines for x in line.x])
        axis.set_xscale("log")
        axis.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
        axis.minorticks_off()
    axis.set_xlabel(panel.x)
    axis.set_ylabel(panel.y)
    axis.legend(fontsize=8)


def log_ticks(values: Sequence[float]) -> list[float]:
    """Round numbers within the values: 1, 2, 5 or else 1 to 9 times a power of ten; the ends where there are no two."""
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), range(1, 10)):
        within = [tick for power in powers for factor in factors if low <= (tick := factor * 10.0**power) <= high]
        if len(within) > 1:
            return within
    return sorted({low, high})


def _points(axis: Any, panel: Points) -> None:
    places = range(len(panel.labels))
    axis.errorbar(places, panel.values, _spread(panel.values, panel.lows, panel.highs), fmt="o", capsize=4)
    if panel.mark is not None:
        axis.axhline(panel.mark, linewidth=1, linestyle=":", color="grey")
    axis.set_xticks(places, [_plain(label) for label in panel.labels], rotation=20 if len(panel.labels) > 4 else 0)
    axis.set_xlim(-0.5, len(panel.labels) - 0.5)
    axis.set_ylabel(panel.y)


def _distributions(axis: Any, panel: Distributions) -> None:
    for label, densities in zip(panel.labels, panel.densities, strict=True):
        axis.stairs(densities, panel.edges, fill=True, alpha=0.6, label=_plain(label))
    axis.axvline(panel.cut, linewidth=1.5, linestyle=":", color="black")
    axis.set_xlabel(panel.x)
    axis.set_ylabel("density")
    axis.legend(fontsize=8)


def _spread(values: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> list[list[float]]:
    return [
        [max(0.0, value - low) for value, low in zip(values, lows, strict=True)],
        [max(0.0, high - value) for value, high in zip(values, highs, strict=True)],
    ]


def _plain(text: str) -> str:
    """Names are the user's: a dollar sign begins no formula."""
    return text.replace("$", r"\$")
