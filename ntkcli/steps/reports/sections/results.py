"""What came of it: training curves, and evaluations with their intervals."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

import store
from ntkcli.statistics import ArmScore
from ntkcli.steps.evaluation.summary import EvaluateResult, summarise
from ntkcli.steps.reports import plots
from ntkcli.steps.reports.blocks import Block, Column, Notice, Paragraph, Plot, Table, Value
from ntkcli.steps.reports.collect import Facts

POINTS = 400
"""Of a curve: more than a screen shows; longer ones are means of neighbouring steps."""
MOST_RUNS = 12
MOST_TASKS = 12


def training(facts: Facts) -> list[Block]:
    """Loss by step of every run, and the held-out loss where there is one."""
    blocks: list[Block] = [
        Notice("missing", f"{made.name} stopped at step {made.done:,} of {made.rows:,}; the same command goes on.")
        for made in facts.unfinished("run")
    ]
    ended = {made.name: made.ended for made in facts.made}
    runs = sorted(facts.of_kind("run"), key=lambda run: -ended[run.name])
    series: dict[str, tuple[Sequence[int], Sequence[float], bool]] = {}
    lines: list[tuple[Value, ...]] = []
    for run in runs[:MOST_RUNS]:
        facts.attempt(run.name, _curve, run, series, lines)
    if not series:
        line = f"ntksel finetune {_path(facts)} --model MODEL --train DATA --name RUN"
        return [*blocks, Notice("missing", "No finished run is in the store.", line)]
    columns = (Column("run"), Column("steps", ",", True), Column("tokens", ",", True),
               Column("first loss", ".3f", True),
               Column("last loss", ".3f", True), Column("best held-out loss", ".3f", True))  # fmt: skip
    falls = max(lines, key=lambda line: float(line[3] or 0) - float(line[4] or 0))
    said = f"Loss by step of {len(lines)} runs. It falls most in {falls[0]}: from {falls[3]:.3f} to {falls[4]:.3f}."
    if len(runs) > MOST_RUNS:
        blocks.append(Notice("sampled", f"{len(runs) - MOST_RUNS} older runs are not drawn."))
    table = Table("runs-table", "Runs", columns, tuple(lines))
    return [Plot("training-plot", "Training loss", said, plots.curves(series), table, 380), *blocks]


def evaluations(facts: Facts) -> list[Block]:
    """Every eval: each arm's value with its interval, and its difference from the baseline."""
    blocks: list[Block] = []
    by_eval: dict[str, dict[str, store.Artefact]] = {}
    for artefact in facts.of_kind("eval"):
        _, name, run = artefact.name.split("/")
        by_eval.setdefault(name, {})[run] = artefact
    for name, artefacts in by_eval.items():
        runs = dict(sorted(artefacts.items(), key=lambda pair: (pair[0] != "base", pair[0])))
        found = facts.attempt(f"evals/{name}", partial(summarise, runs, name=name))
        if found is not None:
            blocks += _evaluation(name, found)
    blocks += [
        Notice("missing", f"{made.name} has {made.done:,} of {made.rows:,} items; the same command goes on.")
        for made in facts.unfinished("eval")
    ]
    if not by_eval:
        line = f"ntksel eval {_path(facts)} --model MODEL --task FILE --name EVAL --run base --run RUN"
        blocks.append(Notice("missing", "No finished evaluation is in the store.", line))
    return blocks


def _curve(
    run: store.Artefact, series: dict[str, tuple[Sequence[int], Sequence[float], bool]], lines: list[tuple[Value, ...]]
) -> None:
    name = run.name.partition("/")[2]
    loss = run.read("loss").astype(np.float64)
    taken = np.flatnonzero(np.isfinite(loss))
    if not len(taken):
        return
    steps, values = _thinned(taken, loss[taken])
    series[name] = (steps, values, False)
    best = None
    if "held_out_loss" in run.arrays:
        held_out = run.read("held_out_loss").astype(np.float64)
        at = np.flatnonzero(np.isfinite(held_out))
        if len(at):
            series[f"{name} (held out)"] = ((at[-POINTS:] + 1).tolist(), held_out[at[-POINTS:]].tolist(), True)
            best = float(held_out[at].min())
    tokens = int(run.read("tokens").sum())
    lines.append((name, len(taken), tokens, float(loss[taken[0]]), float(loss[taken[-1]]), best))


def _thinned(steps: Any, values: Any) -> tuple[list[int], list[float]]:
    """At most POINTS points, each the mean of its neighbours."""
    groups = np.array_split(np.arange(len(steps)), min(POINTS, len(steps)))
    return [int(steps[group[-1]]) + 1 for group in groups], [float(values[group].mean()) for group in groups]


def _evaluation(name: str, found: EvaluateResult) -> list[Block]:
    blocks: list[Block] = [Paragraph(sentence) for sentence in found.sentences]
    tasks = list(dict.fromkeys(score.task for score in found.scores))
    for i, task in enumerate(tasks[:MOST_TASKS]):
        scores = [score for score in found.scores if score.task == task]
        first = scores[0]
        unit = "share right" if first.percent else first.unit or "value"
        at = next((score.value for score in scores if score.arm == found.baseline), None)
        dots = [plots.Interval(score.arm, score.value, score.low, score.high) for score in scores]
        figure = plots.intervals(dots, x=unit, at=at, percent=first.percent)
        label = f"“{name}”, {task}" + (" (retained)" if task in found.retained else "")
        better = "higher" if first.higher_is_better else "lower"
        best = (max if first.higher_is_better else min)(scores, key=lambda score: score.value)
        said = f"{label}: {len(scores)} arms on {first.n:,} items, with 95% intervals; {better} is better. "
        ends = f"{_value(best, best.low)} to {_value(best, best.high)}"
        said += f"Best value: {best.arm}, {_value(best, best.value)} ({ends})."
        table = _table(f"eval-{name}-{i}-table", label, scores, found.baseline)
        blocks.append(Plot(f"eval-{name}-{i}", f"Evaluation {label}", said, figure, table, 130 + 44 * len(scores)))
    if len(tasks) > MOST_TASKS:
        blocks.append(Notice("sampled", f"{len(tasks) - MOST_TASKS} more tasks of {name!r} are not drawn."))
    return blocks


def _table(table_id: str, label: str, scores: Sequence[ArmScore], baseline: str) -> Table:
    columns = (Column("arm"), Column("seeds", ",", True), Column("value"), Column("95% interval"),
               Column(f"minus {baseline}"), Column("95% interval of it"), Column("p (Holm)", ".3f", True))  # fmt: skip
    lines: list[tuple[Value, ...]] = []
    for score in scores:
        line: list[Value] = [score.arm, len(score.seeds), _value(score, score.value),
                             f"{_value(score, score.low)} to {_value(score, score.high)}"]  # fmt: skip
        d = score.difference
        if d is None:
            line += ["", "", None]
        else:
            ends = f"{_value(score, d.low, '+')} to {_value(score, d.high, '+')}"
            line += [_value(score, d.value, "+"), ends, d.p_holm]

        lines.append(tuple(line))
    return Table(table_id, f"Values of {label}", columns, tuple(lines))


def _value(score: ArmScore, value: float, sign: str = "") -> str:
    return format(100 * value, f"{sign}.1f") + "%" if score.percent else format(value, f"{sign}.3f")


def _path(facts: Facts) -> str:
    return shlex.quote(str(facts.stored.path))
