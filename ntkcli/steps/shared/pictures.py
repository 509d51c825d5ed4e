"""Pictures of results as .png and .svg, with matplotlib where it is installed: checked before anything runs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import store
from ntkcli.errors import UsageError
from ntkcli.statistics import ArmScore
from ntkcli.steps.shared.outputs import Inputs, check_output, write_output

SUFFIXES: Final = (".png", ".svg")
_POINTS, _WIDTH, _ROW, _PANEL = 150, 5.5, 0.32, 1.4


def check_picture(path: Path | None, *, inputs: Inputs, stored: store.Store | None, force: bool) -> None:
    """UsageError, before anything runs, for a picture of another kind, that must not be written, or that can't be."""
    if path is None:
        return
    if path.suffix not in SUFFIXES:
        raise UsageError(f"--plot {path}: its ending is not known.", f"Give a name in {' or '.join(SUFFIXES)}.")
    check_output(path, option="--plot", inputs=inputs, stored=stored, force=force)
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError("--plot needs the package matplotlib.", "pip install 'ntksel[plot]'") from error


def new_figure(width: float, height: float) -> Any:
    """An empty figure that is drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_figure(path: Path, figure: Any, *, kind: str) -> None:
    """Write the figure to `path`; the same figure is the same bytes."""
    import matplotlib

    picture = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "ntksel", "svg.fonttype": "none"}):
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(picture, format=path.suffix[1:], dpi=_POINTS, metadata=metadata)
    write_output(path, picture.getvalue(), {"kind": kind})


def write_arms(path: Path, groups: Sequence[tuple[str, str, Sequence[ArmScore]]], *, kind: str) -> None:
    """Draw arms as points with 95% intervals: a row of panels per group (its title, baseline, scores) and task.

    On the left each arm's value, on the right its difference from the baseline.
    """
    panels = [
        (title, baseline, task, [score for score in scores if score.task == task])
        for title, baseline, scores in groups
        for task in dict.fromkeys(score.task for score in scores)
    ]
    heights = [_PANEL + _ROW * len(own) for *_, own in panels]
    figure = new_figure(2 * _WIDTH, sum(heights))
    axes = figure.subplots(len(panels), 2, squeeze=False, height_ratios=heights)
    for (left, right), (title, baseline, task, own) in zip(axes, panels, strict=True):
        unit = "%" if own[0].percent else own[0].unit or "value"
        _intervals(left, [(one.arm, one.value, one.low, one.high) for one in own], own[0])
        left.set_title(f"{title}{task}")
        left.set_xlabel(f"{task} ({unit}), 95% intervals")
        known = [one for one in own if one.difference is not None]
        ends = [(one.arm, d.value, d.low, d.high) for one in known if (d := one.difference) is not None]
        if not ends:
            right.set_visible(False)
            continue
        _intervals(right, ends, own[0])
        right.axvline(0, linewidth=1, color="black")
        right.set_title(f"minus {baseline}")
        better = "right" if own[0].higher_is_better else "left"
        right.set_xlabel(f"difference ({'points' if own[0].percent else unit}); better to the {better}")
    write_figure(path, figure, kind=kind)


def _intervals(axis: Any, lines: Sequence[tuple[str, float, float, float]], like: ArmScore) -> None:
    """A point and its interval per line, the first on top; shares in percent."""
    scale = 100 if like.percent else 1
    for i, (_, value, low, high) in enumerate(lines):
        axis.plot([scale * low, scale * high], [i, i], color="tab:blue", linewidth=1.5, solid_capstyle="butt")
        axis.plot([scale * value], [i], marker="o", color="tab:blue", markersize=5)
    axis.set_yticks(range(len(lines)), [text.replace("$", r"\$") for text, *_ in lines])
    axis.set_ylim(len(lines) - 0.5, -0.5)
    axis.grid(visible=True, axis="x", alpha=0.3)
