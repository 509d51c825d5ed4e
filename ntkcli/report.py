"""Results in words and tables, with their uncertainty. Plain strings; `ntkcli.console` shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ntkcli.steps.estimate import Estimate
    from ntkcli.steps.evaluate import EvaluateResult
    from ntkcli.steps.finetune import FinetuneResult
    from ntkcli.steps.finetune_estimate import FinetuneEstimate


def accuracy_table(result: EvaluateResult) -> tuple[str, list[str], list[list[str]]]:
    """Title, columns and rows: accuracy with its interval, and the paired difference from the first run, in points."""
    tasks = {score.task for score in result.scores}
    columns = ["run", "accuracy", "95% interval", f"minus {result.baseline}", "95% interval", "p (McNemar)"]
    rows = []
    for score in result.scores:
        name = score.run if len(tasks) == 1 else f"{score.task} · {score.run}"
        found = score.accuracy
        row = [name, f"{100 * found.value:.1f}", f"{100 * found.low:.1f} to {100 * found.high:.1f}"]
        if (paired := score.difference) is None:
            row += ["", "", ""]
        else:
            row += [
                f"{100 * paired.value:+.1f}",
                f"{100 * paired.low:+.1f} to {100 * paired.high:+.1f}",
                f"{paired.p:.3f}",
            ]
        rows.append(row)
    return f"{result.artefact}: {result.items} items, in percent", columns, rows


def estimate_line(found: Estimate) -> str:
    """What a step would take, in one line."""
    share = f"{found.truncated} of {found.sampled} sampled rows truncated, {found.unusable} unusable"
    return (
        f"{found.step}: {found.rows} rows, about {found.tokens:,} tokens (mean {found.mean_tokens:.0f}, 95% "
        f"{found.p95_tokens:.0f}, longest {found.max_tokens}; {share}); disk {human_bytes(found.disk_bytes)}, weights "
        f"{human_bytes(found.weight_bytes)}; about {_duration(found.seconds)}"
    )


def finetune_estimate_line(found: FinetuneEstimate) -> str:
    """What a fine-tuning would take, in one line."""
    held_out = f" and {found.held_out} held out" if found.held_out else ""
    share = f"{found.truncated} of {found.sampled} sampled rows truncated, {found.unusable} unusable"
    return (
        f"finetune: {found.rows} rows an epoch{held_out}, {found.steps} steps, about {found.tokens:,} tokens (mean "
        f"{found.mean_tokens:.0f}, longest {found.max_tokens}; {share}); adapter of {found.adapter_parameters:,} "
        f"weights; memory {human_bytes(found.memory_bytes)} with {found.batch_tokens:,} tokens at a time, disk "
        f"{human_bytes(found.disk_bytes)}; about {_duration(found.seconds)}"
    )


def finetune_line(run: FinetuneResult) -> str:
    """A run in one line."""
    stopped = f" of {run.planned_steps}" if run.steps != run.planned_steps else ""
    line = (
        f"{run.artefact}: {run.rows} rows, {run.steps}{stopped} steps, loss {run.first_loss:.3f} to {run.last_loss:.3f}"
    )
    if run.held_out_loss is not None:
        line += f", held out {run.held_out_loss:.3f} after step {run.best_step} on {run.held_out} rows"
    return f"{line}, {run.truncated} truncated, {run.skipped} skipped; adapter {run.adapter}"


def human_bytes(count: float) -> str:
    """A size in powers of 1024: `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def verdict(run: str, baseline: str, *, value: float, low: float, high: float) -> str:
    """One plain sentence about a paired difference (in [-1, 1]) and whether it may be noise."""
    points = f"{100 * abs(value):.1f} points (95% interval {100 * low:+.1f} to {100 * high:+.1f})"
    if low > 0:
        return f"{run} beats {baseline} by {points}."
    if high < 0:
        return f"{run} is worse than {baseline} by {points}."
    direction = "above" if value > 0 else "below" if value < 0 else "from"
    return f"{run} is {points} {direction} {baseline}: the interval holds 0, so this may be noise."


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
