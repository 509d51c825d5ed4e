#!/usr/bin/env python
"""The map's runs as tables and a heat map: what right rows gain against random rows and against the domain alone.

    python benchmarks/study/map_table.py --figures benchmarks/figures/map.jsonl [--long] [--picture docs/images/map.png]

A line for each cell whose four arms are there with the same seeds; the short form of the runs unless --long is given.
Then a line for each cell with the pool's rows alone, without the domain. Differences are means over items and seeds
with 95% intervals that draw both; nothing is corrected for the number of cells, which the text beside the table says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import supply
from environment import describe
from runs import LONG, SHORT, Training, item_values, lines

from ntkcli.statistics import ArmScore, TaskItems, compare_arms

ARMS: Final = ("domain", "domain-steps", "random", "oracle")
PAIRS: Final = (("oracle", "random"), ("oracle", "domain-steps"), ("random", "domain-steps"))
ALONE: Final = ("domain-steps", "oracle", "random-alone", "oracle-alone")
PAIRS_ALONE: Final = (("oracle-alone", "random-alone"), ("oracle-alone", "oracle"), ("oracle-alone", "domain-steps"))
Arms = dict[str, dict[str, Any]]
"""Arm → seed → a line."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A line of the table: its arms by seed."""

    task: str
    domain: int
    kind: str
    share: float
    arms: Arms

    @property
    def label(self) -> str:
        """Task, rows of the domain, kind of supply and its share."""
        return f"{self.task.partition('-')[2]}, {self.domain} rows, {self.kind} {self.share:.0%}"

    @property
    def seeds(self) -> int:
        """Of every arm."""
        return len(next(iter(self.arms.values())))

    def scores(self, measure: int, baseline: str) -> dict[str, ArmScore]:
        """Arms against a baseline, by accuracy (0) or log loss (1)."""
        how = ({}, {"percent": False, "higher_is_better": False})[measure]
        values = {
            arm: {seed: item_values(line)[measure] for seed, line in by_seed.items()}
            for arm, by_seed in self.arms.items()
        }
        return {one.arm: one for one in compare_arms({self.task: TaskItems(values, **how)}, baseline=baseline).scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=Path, required=True)
    parser.add_argument("--long", action="store_const", const=LONG, default=SHORT, dest="training")
    parser.add_argument("--picture", type=Path, help="a heat map of the differences: .png or .svg")
    given = parser.parse_args()
    found = lines(given.figures)
    cells = in_order(cells_of(found, given.training))
    print(describe())
    if cells:
        print_table(cells)
    if alone := in_order(cells_of(found, given.training, ALONE)):
        print("\nThe pool's rows alone, without the domain:")
        print_table(alone, PAIRS_ALONE)
    if given.picture is not None:
        draw(cells, given.picture)


def cells_of(found: list[dict[str, Any]], training: Training, among: Sequence[str] = ARMS) -> Iterator[Cell]:
    """The cells in which all arms of `among` have runs of this training, with the seeds that all of them have."""
    found = [line for line in found if all(line.get(key) == value for key, value in asdict(training).items())]
    for task, domain in dict.fromkeys((line["task"], line["domain"]) for line in found):
        here = [line for line in found if (line["task"], line["domain"]) == (task, domain)]
        for kind, share in dict.fromkeys((line["kind"], line["share"]) for line in here if line["arm"] == "random"):
            arms: Arms = {arm: {} for arm in among}
            for line in here:
                if line["arm"] in arms and line["kind"] in ("", kind) and line["share"] in (None, share):
                    arms[line["arm"]][str(line["seed"])] = line
            seeds = set.intersection(*(set(by_seed) for by_seed in arms.values()))
            if seeds:
                same = {arm: {seed: by_seed[seed] for seed in sorted(seeds)} for arm, by_seed in arms.items()}
                yield Cell(task, domain, kind, share, same)


def in_order(cells: Iterable[Cell]) -> list[Cell]:
    """By task, size of the domain, kind of supply (the nearest last) and share."""
    tasks, kinds = list(supply.TASKS), supply.KINDS
    return sorted(cells, key=lambda cell: (tasks.index(cell.task), cell.domain, kinds.index(cell.kind), cell.share))


def print_table(cells: list[Cell], pairs: Sequence[tuple[str, str]] = PAIRS) -> None:
    """Log loss and accuracy of every arm, then the differences; one cell at least."""
    arms = list(cells[0].arms)
    for measure, scale, form, unit in ((1, 1, ".3f", "nats"), (0, 100, ".1f", "accuracy")):
        columns = ["task, domain, supply", "seeds", *(f"{arm}, {unit}" for arm in arms)]
        columns += [f"{one} minus {other}" for one, other in pairs]
        print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for cell in cells:
            scores = cell.scores(measure, arms[0])
            row = [cell.label, str(cell.seeds)]
            row += [f"{scale * scores[arm].value:{form}}" for arm in arms]
            for one, other in pairs:
                found = cell.scores(measure, other)[one].difference
                assert found is not None
                clear = "**" if found.low > 0 or found.high < 0 else ""
                interval = f"({scale * found.low:+{form}} to {scale * found.high:+{form}})"
                row.append(f"{clear}{scale * found.value:+{form}}{clear} {interval}")
            print(f"| {' | '.join(row)} |")


def draw(cells: list[Cell], path: Path) -> None:
    """A heat map: cells down, differences across, log loss on the left and accuracy on the right."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 1.6 + 0.36 * len(cells)), sharey=True, layout="constrained")
    for axis, (measure, scale, title, best) in zip(
        axes, ((1, 1.0, "log loss, nats", "RdBu_r"), (0, 100.0, "accuracy, points", "RdBu")), strict=True
    ):
        found = [[cell.scores(measure, other)[one].difference for one, other in PAIRS] for cell in cells]
        values = [[scale * each.value for each in row if each is not None] for row in found]
        largest = float(np.quantile(np.abs(values), 0.9)) if values else 1.0
        axis.imshow(values, cmap=best, vmin=-largest, vmax=largest, aspect="auto")
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                shade = "white" if abs(value) > 0.6 * largest else "black"
                each = found[y][x]
                weight = "bold" if each is not None and (each.low > 0 or each.high < 0) else "normal"
                shown = f"{value:+.2f}" if measure else f"{value:+.0f}"
                axis.text(x, y, shown, ha="center", va="center", color=shade, weight=weight)
        axis.set_xticks(range(len(PAIRS)), [f"{one}\nminus\n{other}" for one, other in PAIRS])
        axis.set_title(title, fontsize="medium")
        for y in (y for y in range(1, len(cells)) if cells[y].task != cells[y - 1].task):
            axis.axhline(y - 0.5, color="black", linewidth=0.8)
    axes[0].set_yticks(range(len(cells)), [c.label for c in cells])
    figure.suptitle("Blue: better. Bold: the 95% interval leaves out 0.", fontsize="medium")
    figure.savefig(path, dpi=110, metadata={"Software": None} if path.suffix == ".png" else None)


if __name__ == "__main__":
    main()
