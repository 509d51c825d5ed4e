"""Results in words and tables, with their uncertainty. Plain strings; `ntkcli.console` shows them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ntkcli.units import human_bytes, human_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ntkcli.statistics import ArmScore, Classification
    from ntkcli.steps.evaluation.summary import EvaluateResult
    from ntkcli.steps.pipelines.arms_cost import ArmsEstimate
    from ntkcli.steps.pipelines.arms_report import ArmsResult
    from ntkcli.steps.shared.cost import Estimate
    from ntkcli.steps.training.dry_run import FinetuneEstimate
    from ntkcli.steps.training.finetune import FinetuneResult
    from ntkcli.steps.training.lr_result import LrFindResult


Table = tuple[str, list[str], list[list[str]]]

MEASURES = {
    "accuracy": "accuracy",
    "exact_match": "exact match",
    "token_f1": "token F1",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "balanced_accuracy": "balanced accuracy",
    "missing": "no answer",
    "nats_per_token": "nats a token",
    "perplexity": "perplexity",
}
"""Measures in the order of the table, by their column's name."""
NATS = "nats a token"
_NOT_SHARES = ("nats_per_token", "perplexity")


def comparison_table(result: EvaluateResult) -> Table:
    """Title, columns and rows: each arm's value with its interval, and its paired difference from the baseline."""
    several = len({score.task for score in result.scores}) > 1
    seeds = any(len(score.seeds) > 1 for score in result.scores)
    corrected = any(score.difference and score.difference.p_holm != score.difference.p for score in result.scores)
    nats = any(score.unit == NATS for score in result.scores)
    columns = ["run", *(["seeds", "spread"] if seeds else []), *(["perplexity"] if nats else [])]
    columns += ["value", "95% interval"]
    compared = [f"minus {result.baseline}", "95% interval", "p", *(["p (Holm)"] if corrected else [])]
    columns += compared if result.sentences else []
    rows = []
    for score in result.scores:
        task = f"{score.task} (retained)" if score.task in result.retained else score.task
        row = [f"{task} · {score.arm}" if several else score.arm]
        if seeds:
            row += [str(len(score.seeds)), "" if score.spread is None else _value(score, score.spread)]
        if nats:
            row.append(f"{math.exp(score.value):.2f}" if score.unit == NATS else "")
        row += [_value(score, score.value), f"{_value(score, score.low)} to {_value(score, score.high)}"]
        if (found := score.difference) is None:
            row += [""] * (len(columns) - len(row))
        else:
            row += [
                _value(score, found.value, sign="+"),
                f"{_value(score, found.low, sign='+')} to {_value(score, found.high, sign='+')}",
                f"{found.p:.3f}",
                *([f"{found.p_holm:.3f}"] if corrected else []),
            ]
        rows.append(row)
    units = {"percent" if score.percent else score.unit or "the task's unit" for score in result.scores}
    return f"{result.artefact}: {result.items} items, in {' and '.join(sorted(units))}", columns, rows


def measures_table(result: EvaluateResult) -> Table | None:
    """Title, columns and rows of all measures run by run; None if there is nothing that `comparison_table` has not."""
    used = [name for name in MEASURES if any(name in one.measures for one in result.runs)]
    if used in ([], ["accuracy"], ["exact_match"], list(_NOT_SHARES)):
        return None
    several = len({one.task for one in result.runs}) > 1
    rows = []
    for one in result.runs:
        values = [one.measures.get(name) for name in used]
        cells = [
            "" if value is None else f"{value:.3f}" if name in _NOT_SHARES else f"{100 * value:.1f}"
            for name, value in zip(used, values, strict=True)
        ]
        rows.append([f"{one.task} · {one.run}" if several else one.run, str(one.n), *cells])
    return "All measures; shares in percent", ["run", "items", *(MEASURES[name] for name in used)], rows


def class_tables(result: EvaluateResult) -> list[Table]:
    """One table for each run and task whose items have the same choices: precision, recall and F1 by class."""
    columns = ["class", "precision", "recall", "F1", "items", "predicted"]
    return [
        (
            _class_title(one.task, one.run, one.classes),
            columns,
            [
                [c.name, *(f"{100 * x:.1f}" for x in (c.precision, c.recall, c.f1)), str(c.support), str(c.predicted)]
                for c in one.classes.classes
            ],
        )
        for one in result.runs
        if one.classes is not None
    ]


def _class_title(task: str, run: str, found: Classification) -> str:
    ends = f"{100 * found.macro_f1_low:.1f} to {100 * found.macro_f1_high:.1f}"
    return f"{task} · {run}: classes, in percent; macro F1 {100 * found.macro_f1:.1f}, 95% {ends}"


def _value(score: ArmScore, value: float, *, sign: str = "") -> str:
    return format(100 * value, f"{sign}.1f") if score.percent else format(value, f"{sign}.3f")


def estimate_line(found: Estimate) -> str:
    """What a step would take, in one line."""
    about, which = ("", "") if found.sampled == found.rows else ("about ", "sampled ")
    share = f"{found.truncated} of {found.sampled} {which}rows truncated, {found.unusable} unusable"
    there = f" ({found.there} more are there already)" if found.there else ""
    return (
        f"{found.step}: {found.rows} rows{there}, {about}{found.tokens:,} tokens (mean {found.mean_tokens:.0f}, 95% "
        f"{found.p95_tokens:.0f}, longest {found.max_tokens}; {share}); disk {human_bytes(found.disk_bytes)}, weights "
        f"{human_bytes(found.weight_bytes)}, {found.batch_tokens:,} tokens at a time"
        f"{' (counted; the first batch will measure it)' if found.counted else ''}; about "
        f"{human_duration(found.seconds)}"
    )


def finetune_estimate_line(found: FinetuneEstimate) -> str:
    """What a fine-tuning would take, in one line."""
    held_out = f" and {found.held_out} held out" if found.held_out else ""
    share = f"{found.truncated} of {found.sampled} sampled rows truncated, {found.unusable} unusable"
    return (
        f"finetune: {found.rows} rows per epoch{held_out}, {found.steps} steps, about {found.tokens:,} tokens (mean "
        f"{found.mean_tokens:.0f}, longest {found.max_tokens}; {share}); adapter of {found.adapter_parameters:,} "
        f"weights; memory {human_bytes(found.memory_bytes)} with {found.batch_tokens:,} tokens at a time, disk "
        f"{human_bytes(found.disk_bytes)}; about {human_duration(found.seconds)}"
    )


def finetune_line(run: FinetuneResult) -> str:
    """A run in one line."""
    stopped = f" of {run.planned_steps}" if run.steps != run.planned_steps else ""
    of = "" if run.documents is None else f" (pieces of {run.documents} documents)"
    packed = "" if run.sequences is None else f" in {run.sequences} sequences"
    rows = f"{run.artefact}: {run.rows} rows{of}{packed}"
    line = f"{rows}, {run.steps}{stopped} steps, loss {run.first_loss:.3f} to {run.last_loss:.3f}"
    if run.held_out_loss is not None:
        line += f", held out {run.held_out_loss:.3f} after step {run.best_step} on {run.held_out} rows"
    return f"{line}, {run.truncated} truncated, {run.skipped} skipped; adapter {run.adapter}"


def lr_table(found: LrFindResult) -> Table:
    """Title, columns and rows of a sweep: each rate's losses, and its difference from the lowest."""
    rows = []
    for one in found.rates:
        if one.diverged:
            rows.append([f"{one.lr:g}", f"diverged ({one.diverged})", "", "", ""])
            continue
        mark = " *" if one.lr == found.lr else ""
        ends = "" if one.lr == found.lr else f"{one.low:+.3f} to {one.high:+.3f}"
        values = [f"{one.held_out_loss:.3f}{mark}", f"{one.difference:+.3f}", ends, f"{one.last_loss:.3f}"]
        rows.append([f"{one.lr:g}", *values])
    rows.append(["base model", f"{found.base_loss:.3f}", "", "", ""])
    title = (
        f"{found.artefact}: {found.rows} rows, {found.held_out} held out; trials of {found.steps} steps; nats a token"
    )
    return title, ["--lr", "held out", "minus lowest", "95% interval", "training (last tenth)"], rows


def arms_table(title: str, baseline: str, scores: Sequence[ArmScore], result: ArmsResult) -> Table:
    """Title, columns and rows of a comparison: what each arm spent, its value, its difference from the baseline."""
    several = len({score.task for score in scores}) > 1
    columns = ["arm", "rows", "tokens", "seeds", "spread", "value", "95% interval", "log loss", f"minus {baseline}"]
    rows = []
    for score in scores:
        spent, d = result.spent[score.arm], score.difference
        scale, form = (100, ".1f") if score.percent else (1, ".3f")
        task = f"{score.task} (retained)" if score.task in result.retained else score.task
        label = f"{task} · {score.arm}" if several else score.arm
        row = [label, f"{spent.rows:,}", f"{spent.tokens:,}", str(len(score.seeds))]
        row.append("" if score.spread is None else f"{scale * score.spread:{form}}")
        row.append(f"{scale * score.value:{form}}")
        row.append(f"{scale * score.low:{form}} to {scale * score.high:{form}}")
        nats = result.log_loss.get(score.task, {}).get(score.arm)
        row.append("" if nats is None else f"{nats:.3f}")
        if d is None:
            row += ["", "", ""]
        else:
            ends = f"{scale * d.low:+{form}} to {scale * d.high:+{form}}"
            row += [f"{scale * d.value:+{form}}", ends, f"{d.p_holm:.3f}"]
        rows.append(row)
    return title, [*columns, "95% interval", "p"], rows


def curve_table(result: ArmsResult) -> Table:
    """The gain over the baseline of the same size: a line per task and arm, a column per size."""
    sizes = [each.n for each in result.by_size]
    percent = {(score.task): score.percent for each in result.by_size for score in each.scores}
    gains = {(point.task, point.arm, point.n): point for point in result.curve}
    several = len({task for task, _, _ in gains}) > 1
    rows = []
    for task, arm in dict.fromkeys((task, arm) for task, arm, _ in gains):
        scale, form = (100, "+.1f") if percent[task] else (1, "+.3f")
        cells = [gains[task, arm, n].gain for n in sizes]
        if any(cell is not None for cell in cells):
            shown = ["" if cell is None else f"{scale * cell:{form}}" for cell in cells]
            rows.append([f"{task} · {arm}" if several else arm, *shown])
    return "gain over the baseline with the same number of rows", ["arm", *(f"{n:,} rows" for n in sizes)], rows


def rounds_table(result: ArmsResult) -> Table:
    """What each round of the arm `rounds` chose, by size and fold where there are several."""
    rows = []
    for one in result.rounds:
        place = [f"{one.size:,} rows" if one.size is not None else "", f"fold {one.fold}" if one.fold else ""]
        label = ", ".join([*filter(None, place), f"round {one.number}"])
        rows.append(
            [label, f"{one.rows:,}", "" if one.also_selected is None else f"{one.also_selected:,}", one.adapter]
        )
    return "rows chosen in rounds", ["round", "rows", "also in selected", "features of"], rows


def arms_estimate_lines(found: ArmsEstimate) -> list[str]:
    """What a comparison would take, and what it could show."""
    left = f"{found.trainings} trainings" + (f", {found.trainings_done} of them done" if found.trainings_done else "")
    line = (
        f"{left}; about {found.train_tokens:,} tokens to train on, {found.feature_tokens:,} to featurize and "
        f"{found.test_tokens:,} to evaluate, about {human_duration(found.seconds)}"
    )
    uncounted = f"; not counted: {', '.join(found.uncounted)}" if found.uncounted else ""
    return [line + uncounted, *found.sentences]
