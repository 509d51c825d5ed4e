"""A comparison of arms: the plan checked against its files, and what came out, as a table and as files."""

from __future__ import annotations

import csv
import dataclasses
import glob
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import store
from ntkcli.data import DataFile
from ntkcli.data.references import is_there, split_name
from ntkcli.data.stdin import STDIN
from ntkcli.data.tasks.reference import find_task, names_task
from ntkcli.data.tasks.source import for_evaluation
from ntkcli.errors import UsageError
from ntkcli.progress import Progress
from ntkcli.statistics import ArmScore
from ntkcli.steps.pipelines.arms_plan import Plan
from ntkcli.steps.shared.outputs import Inputs, check_output, write_output
from ntkcli.steps.shared.stores import is_store, open_store
from ntkcli.steps.splits.overlap import Overlap, overlap

COLUMNS: Final = (
    "task", "arm", "seeds", "rows", "tokens", "items", "value", "low", "high", "spread",
    "difference", "difference_low", "difference_high", "p", "p_holm", "test",
)  # fmt: skip
"""Of the CSV file. Values are as stored, shares from 0 to 1; rows are those taken from the pool; tokens those trained
on, a mean over seeds."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What an arm spent: rows taken from the pool, and tokens trained on (a mean over seeds); 0 for `base`."""

    rows: int
    tokens: int


@dataclass(frozen=True, slots=True)
class ArmsResult:
    """The eval, the baseline, every arm on every task with its interval, sentences, what each spent, and the files.

    `retained` are the tasks of general ability.
    """

    artefact: str
    baseline: str
    scores: tuple[ArmScore, ...]
    sentences: tuple[str, ...]
    spent: dict[str, Spent]
    retained: tuple[str, ...]
    items: int
    skipped: int
    files: tuple[str, ...]
    commands: tuple[str, ...]


def check_data(plan: Plan, *, domain_split: str | None, pool_split: str | None) -> Plan:
    """The plan fitted to its pool, whose rows are counted unless the store knows them.

    UsageError, before anything runs, for data that isn't there and a pool that is too small.
    """
    store.check_name(plan.name, "--name")
    store.check_name(f"{plan.prefix}warmup", "--prefix")
    if STDIN in (plan.domain, plan.pool, *plan.tasks):
        raise UsageError("Standard input can be read once, and several steps read these rows.", "Give a file.")
    DataFile(plan.domain, split=domain_split)
    if not plan.needs_pool:
        return plan
    if not plan.pool:
        raise UsageError("--pool is missing.", "Give the rows to choose from, or only arms that need none.")
    file = DataFile(plan.pool, split=pool_split)
    known = None
    if is_store(plan.store):
        known = open_store(plan.store).find(f"datasets/{plan.prefix}pool")
    return plan.fitted(sum(1 for _ in file.records()) if known is None else known.n)


def check_overlap(plan: Plan, *, domain_split: str | None, allow: bool, progress: Progress) -> dict[str, Overlap]:
    """Of each task whose rows are on this machine: which of its items are rows of the domain, with a note of it.

    UsageError if some are, word for word, unless `allow`: every arm trains on the domain.
    """
    found: dict[str, Overlap] = {}
    if not is_local(plan.domain):
        return found
    domain = DataFile(plan.domain, split=domain_split)
    for task in plan.tasks:
        place = split_name(task)[1]
        if not is_local(place):
            continue
        found[task] = each = overlap(domain, DataFile(for_evaluation(place)))
        if each.exact or each.near:
            progress.note(
                f"{task}: {each.exact} of {each.items} items are rows of the domain, {each.near} nearly, such as "
                + ", ".join(each.places)
            )
        if each.exact and not allow:
            raise UsageError(
                f"--task {task}: {each.exact} of its {each.items} items are rows of --domain {plan.domain}, such as "
                f"{each.places[0]}.",
                "Split them (`ntksel split`), or give --allow-overlap.",
            )
    return found


def is_local(reference: str) -> bool:
    """Whether its rows are on this machine: nothing is fetched for a comparison."""
    if names_task(reference):
        return bool(place := find_task(reference).path) and Path(place).exists()
    return Path(reference).exists() or glob.has_magic(reference)


def test_files(tasks: Sequence[str]) -> tuple[str, ...]:
    """Of the tasks, those that `select --against` can look for: files, and tasks by name."""
    named = [split_name(task)[1] for task in tasks]
    return tuple(for_evaluation(task) for task in named if names_task(task) or is_there(task))


def arms_result(
    store_path: str | Path, plan: Plan, *, baseline: str, commands: Sequence[str], export: Path | None
) -> ArmsResult:
    """The comparison, also written to `reports/<name>.csv` and `.json` of the store, and to `export`."""
    from ntkcli.steps.evaluation.evaluate import summary

    stored = open_store(store_path)
    found = summary(store_path, name=plan.name, runs=plan.runs(), baseline=baseline)
    paths = [stored.folder("reports", f"{plan.name}{suffix}") for suffix in (".csv", ".json")]
    result = ArmsResult(
        artefact=found.artefact,
        baseline=baseline,
        scores=found.scores,
        sentences=found.sentences,
        spent={arm: _spent(stored, plan, arm) for arm in plan.names()},
        retained=found.retained,
        items=found.items,
        skipped=found.skipped,
        files=tuple(str(path) for path in [*paths, *([export] if export else [])]),
        commands=tuple(commands),
    )
    paths[0].parent.mkdir(exist_ok=True)
    for path in paths:
        store.write_bytes(path, _text(path, result))
    if export is not None:
        write_output(export, _text(export, result), {"arms": result.artefact})
    return result


def check_outputs(plan: Plan, *, export: Path | None, recipe: Path | None, force: bool) -> None:
    """UsageError, before anything runs, for a file that must not be written, or is neither .csv nor .json."""
    stored = open_store(plan.store) if is_store(plan.store) else None
    retained = [str(task) for task in plan.evaluation.get("retain", ())]
    tasks = [split_name(task)[1] for task in (*plan.tasks, *retained)]
    read = Inputs([each for each in (plan.domain, plan.pool, *tasks) if each], (plan.model,))
    if export is not None:
        if export.suffix not in (".csv", ".json"):
            raise UsageError(
                f"--export {export}: of no kind that is written.", "Give a file that ends in .csv or .json."
            )
        check_output(export, option="--export", inputs=read, stored=stored, force=force)
    if recipe is not None:
        check_output(recipe, option="--recipe", inputs=read, stored=stored, force=force)


def _text(path: Path, result: ArmsResult) -> bytes:
    return (as_csv(result) if path.suffix == ".csv" else as_json(result)).encode()


def as_csv(result: ArmsResult) -> str:
    """One line for each task and arm, under `COLUMNS`; what there is none of is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for score in result.scores:
        spent, d = result.spent[score.arm], score.difference
        values = [score.value, score.low, score.high, score.spread]
        values += [d.value, d.low, d.high, d.p, d.p_holm] if d else [None] * 5
        cells = ["" if value is None or math.isnan(value) else f"{value:.6g}" for value in values]
        names = [score.task, score.arm, len(score.seeds), spent.rows, spent.tokens, score.n]
        writer.writerow([*names, *cells, d.test if d else ""])
    return text.getvalue()


def as_json(result: ArmsResult) -> str:
    """The whole result."""
    return json.dumps(_finite(dataclasses.asdict(result)), indent=2, allow_nan=False) + "\n"


def _spent(stored: store.Store, plan: Plan, arm: str) -> Spent:
    if arm == "base":
        return Spent(0, 0)
    runs = [stored.get(f"runs/{run}") for run in plan.runs() if run.rpartition(".s")[0] == arm]
    chosen = [name for name in runs[0].parents if name.startswith("selections/")]
    return Spent(
        rows=sum(stored.get(name).n for name in chosen),
        tokens=round(sum(int(run.read("tokens").sum()) for run in runs) / len(runs)),
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
