"""A validation as files: a table (.csv), all of it (.json), and a picture (.png, .svg) with matplotlib."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from pathlib import Path
from typing import Any

from ntkcli.errors import UsageError
from ntkcli.finite import to_json
from ntkcli.steps.shared.outputs import Inputs, check_output, write_output
from ntkcli.steps.shared.stores import is_store, open_store
from ntkcli.steps.validation.measures import Curve
from ntkcli.steps.validation.result import ScoreFinding, Validation, as_document

COLUMNS = tuple(field.name for field in dataclasses.fields(ScoreFinding))
EXPORTS, PLOTS = (".csv", ".json"), (".png", ".svg")


def check_files(store_path: str | Path, export: Path | None, plot: Path | None, *, inputs: Inputs, force: bool) -> None:
    """UsageError, before anything runs, for a file of another kind or that must not be written, or without matplotlib.

    `inputs` are what the command reads; `force` as `check_output` has it.
    """
    stored = open_store(store_path) if is_store(store_path) else None
    for option, path, kinds in (("--export", export, EXPORTS), ("--plot", plot, PLOTS)):
        if path is None:
            continue
        if path.suffix not in kinds:
            raise UsageError(f"{option} {path}: its ending is not known.", f"Give a name in {' or '.join(kinds)}.")
        check_output(path, option=option, inputs=inputs, stored=stored, force=force)
    if plot is not None:
        try:
            import matplotlib  # noqa: F401
        except ImportError as error:
            raise UsageError("--plot needs the package matplotlib.", "pip install 'ntksel[plot]'") from error


def write_export(path: Path, found: Validation) -> None:
    """The table as .csv, or everything (curves with intervals, LDS by kind of subset, levels) as .json."""
    if path.suffix == ".json":
        text = to_json(as_document(found), indent=2) + "\n"
    else:
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(COLUMNS)
        for one in found.result.scores:
            values = [getattr(one, column) for column in COLUMNS]
            writer.writerow([_cell(value) for value in values])
        text = lines.getvalue()
    write_output(path, text.encode(), {"kind": "validation"})


def write_plot(path: Path, found: Validation) -> None:
    """One panel per task with the loss by bin and score, and one with each score's LDS, with 95% intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(curve.task for curve in found.curves))
    bins = any(curve.dose is not None for curve in found.curves)
    subsets = any(curve.lds is not None for curve in found.curves)
    kinds = [draw for draw, there in ((_draw_dose, bins), (_draw_lds, subsets)) if there]
    figure = Figure(figsize=(5.5 * len(kinds), 4 * len(tasks)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(tasks), len(kinds), squeeze=False)
    for row, task in zip(axes, tasks, strict=True):
        for axis, draw in zip(row, kinds, strict=True):
            draw(axis, [curve for curve in found.curves if curve.task == task], found.levels[task])
            axis.set_title(task)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:], dpi=150)
    write_output(path, picture.getvalue(), {"kind": "validation"})


def _draw_dose(axis: Any, curves: list[Curve], levels: dict[str, float]) -> None:
    for k, curve in enumerate(curves):
        if curve.dose is None:
            continue
        dose, x = curve.dose, [i + 0.06 * k for i in range(len(curve.edges))]
        spread = [
            [max(0.0, middle - low) for middle, low in zip(dose.bins, dose.lows, strict=True)],
            [max(0.0, high - middle) for middle, high in zip(dose.bins, dose.highs, strict=True)],
        ]
        axis.errorbar(x, dose.bins, yerr=spread, marker="o", capsize=3, label=curve.score)
    for kind, value in levels.items():
        if kind != "base":
            axis.axhline(value, linestyle=":", linewidth=1, color="grey")
            axis.annotate(kind, (0, value), fontsize=8, color="grey")
    lows = [0.0, *curves[0].edges[:-1]]
    names = [f"{low:g}-{high:g}%" for low, high in zip(lows, curves[0].edges, strict=True)]
    axis.set_xticks(range(len(names)), names)
    axis.set_xlabel("bin of the score's ranks, best first")
    axis.set_ylabel("loss of the test items (nats)")
    axis.legend(fontsize=8)


def _draw_lds(axis: Any, curves: list[Curve], levels: dict[str, float]) -> None:
    del levels
    known = [(curve.score, curve.lds) for curve in curves if curve.lds is not None]
    values = [lds.value for _, lds in known]
    spread = [[max(0.0, lds.value - lds.low) for _, lds in known], [max(0.0, lds.high - lds.value) for _, lds in known]]
    axis.bar(range(len(known)), values, yerr=spread, capsize=3, color="tab:blue", alpha=0.7)
    axis.axhline(0, linewidth=1, color="black")
    axis.set_xticks(range(len(known)), [score for score, _ in known], rotation=20)
    axis.set_ylabel("LDS (Spearman)")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)
