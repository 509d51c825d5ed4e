"""A comparison of arms: the plan checked against its files, and what came out, as a table and as files."""

from __future__ import annotations

import csv
import glob
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import store
from ntkcli.data import DataFile, Row
from ntkcli.data.raw_text import CHAT, RAW, SCHEMA, check_text_as, refuse_other_schema
from ntkcli.data.references import is_there, split_name
from ntkcli.data.stdin import STDIN
from ntkcli.data.tasks.reference import find_task, names_task
from ntkcli.data.tasks.source import for_evaluation
from ntkcli.errors import UsageError, listed
from ntkcli.finite import to_json
from ntkcli.progress import Progress
from ntkcli.statistics import ArmScore
from ntkcli.steps.pipelines.arms_plan import Plan
from ntkcli.steps.pipelines.arms_rounds import RoundRows, chosen_by_round, round_sentences
from ntkcli.steps.shared.outputs import Inputs, check_output, write_output
from ntkcli.steps.shared.pictures import check_picture, write_arms
from ntkcli.steps.shared.settings import take
from ntkcli.steps.shared.sources import BY_SOURCE
from ntkcli.steps.shared.stores import is_store, open_store
from ntkcli.steps.splits.overlap import Overlap, overlap
from ntkcli.steps.training.settings import TrainingSettings

COLUMNS: Final = (
    "task", "arm", "seeds", "rows", "tokens", "items", "value", "low", "high", "spread",
    "difference", "difference_low", "difference_high", "p", "p_holm", "test", "steps", "log_loss", "size",
)  # fmt: skip
"""Of the CSV file. Values are as stored, shares from 0 to 1; rows are those taken from the pool; tokens those trained
on and steps those taken, means over seeds; log_loss: nats of the right choice; size: the rows of `--sizes`."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What an arm spent: rows taken from the pool, tokens trained on and steps (means over seeds); 0 for `base`."""

    rows: int
    tokens: int
    steps: int


@dataclass(frozen=True, slots=True)
class SizeResult:
    """The comparison of one of several sizes."""

    n: int
    baseline: str
    scores: tuple[ArmScore, ...]
    sentences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """An arm with `n` rows of the pool on a task: its value, and its gain over the baseline with as many rows."""

    task: str
    arm: str
    n: int
    value: float
    low: float
    high: float
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    log_loss: float | None


@dataclass(frozen=True, slots=True)
class ArmsResult:
    """The eval, the baseline, every arm on every task with its interval, sentences, what each spent, and the files.

    `retained` are the tasks of general ability. `log_loss` is task → arm → nats of the right choice, for tasks with
    choices. Over `folds` every domain row is an item once, and what was spent is a mean over folds. Of several sizes
    (`--sizes`) the scores are those of the largest; `by_size` has all, `curve` the gain over the number of rows, arm by
    arm. `rounds`: what each round of that arm chose. `sentences` end with what was learnt, and what the oracle shows.
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
    log_loss: dict[str, dict[str, float]] = field(default_factory=dict)
    folds: int | None = None
    rounds: tuple[RoundRows, ...] = ()
    by_size: tuple[SizeResult, ...] = ()
    curve: tuple[CurvePoint, ...] = ()


def check_data(plan: Plan, *, domain_split: str | None, pool_split: str | None, trained_share: float = 1.0) -> Plan:
    """The plan fitted to its pool, whose rows are counted unless the store knows them.

    `trained_share`: of the domain's rows those that an arm trains on. UsageError, before anything runs, for data that
    isn't there and a pool that is too small.
    """
    store.check_name(plan.name, "--name")
    store.check_name(f"{plan.prefix}warmup", "--prefix")
    if STDIN in (plan.domain, plan.pool, *plan.tasks):
        raise UsageError("Standard input can be read once, and several steps read these rows.", "Give a file.")
    domain = DataFile(plan.domain, split=domain_split)
    text_as = str(plan.rows_as.get("text-as", CHAT))
    check_text_as(text_as, True if "thinking" in plan.common else None)
    if text_as == RAW:
        refuse_other_schema(domain.schema.name, text_as, f"--domain {plan.domain}")
    if not plan.needs_pool:
        return plan.repeated(None)
    if not plan.pool:
        raise UsageError("--pool is missing.", "Give the rows to choose from, or only arms that need none.")
    pool = DataFile(plan.pool, split=pool_split)
    if text_as == RAW:
        refuse_other_schema(pool.schema.name, text_as, f"--pool {plan.pool}")
    n_domain = None if plan.domain_repeat else max(1, round(trained_share * _count(plan, "domain", domain)))
    fitted = plan.fitted(_count(plan, "pool", pool), n_domain)
    if fitted.oracle is not None and "oracle" in fitted.arms:
        _check_oracle(fitted, pool)
    return fitted


def check_training(plan: Plan) -> None:
    """UsageError, before anything runs, for training options that can't be used or exclude each other."""
    given = {key.replace("-", "_"): value for key, value in {**plan.training, **plan.arm_training}.items()}
    take(TrainingSettings, given, epochs=plan.epochs).check()


def _count(plan: Plan, name: str, file: DataFile) -> int:
    """The rows of the domain or the pool: read, unless the store knows them."""
    known = open_store(plan.store).find(f"datasets/{plan.prefix}{name}") if is_store(plan.store) else None
    return sum(1 for _ in file.records()) if known is None else known.n


def _check_oracle(plan: Plan, pool: DataFile) -> None:
    """UsageError if the oracle's file is missing, or the pool has too few rows of its labels."""
    text = plan.oracle or ""
    if not text.startswith(BY_SOURCE):
        if not Path(text).is_file():
            raise UsageError(
                f"--oracle {text}: no such file.",
                "Give a file of ids or rows, or source=LABEL,... for the pool's labels.",
            )
        return
    wanted = set(text.removeprefix(BY_SOURCE).split(","))
    counts = Counter(row.source for row in pool.rows() if isinstance(row, Row))
    if missing := sorted(wanted - counts.keys()):
        have = listed(sorted(label for label in counts if label)) or "none"
        raise UsageError(f"--oracle {text}: the pool has no rows of {missing[0]!r}.", f"Its sources are: {have}.")
    there = sum(counts[label] for label in wanted)
    if plan.rows is not None and there < plan.rows:
        raise UsageError(
            f"--oracle {text}: the pool has {there} rows of it, and {plan.rows} are to be drawn.",
            f"Give -n {there} or less, or more labels.",
        )


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


def text_as_of(tasks: Sequence[str], text_as: str) -> str:
    """How the evaluation reads texts: as `text_as` says where a task on this machine has texts, else as usual.

    Rows with choices or written answers are rendered by the chat template, whatever the arms are trained on.
    """
    places = [split_name(task)[1] for task in tasks] if text_as == RAW else []
    has_texts = any(is_local(place) and DataFile(for_evaluation(place)).schema.name == SCHEMA for place in places)
    return text_as if has_texts else CHAT


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
    store_path: str | Path, plan: Plan, *, baseline: str | None, commands: Sequence[str], export: Path | None,
    plot: Path | None = None, folds: Sequence[Plan] = (),
) -> ArmsResult:  # fmt: skip
    """The comparison, also written to `reports/<name>.csv` and `.json` of the store, to `export`, and drawn to `plot`.

    `baseline`: the arm that others are compared with, as `Plan.reference` takes it. `folds`: the plan of each fold.
    """
    from ntkcli.steps.pipelines.arms_folds import by_part, part_summary, runs_of
    from ntkcli.steps.pipelines.arms_learning import learning_sentences, oracle_sentences, task_losses

    stored = open_store(store_path)
    parts = [
        (part.size, part_summary(stored, part, own, baseline=part.reference(baseline)))
        for part, own in by_part(plan, folds)
    ]
    found = parts[-1][1]
    losses = task_losses(stored, plan, folds)
    log_loss = {loss.task: {arm: loss.mean(arm) for arm in loss.nats} for loss in losses}
    paths = [stored.folder("reports", f"{plan.name}{suffix}") for suffix in (".csv", ".json")]
    sizes = {size: each for size, each in parts if size is not None}
    named = runs_of(plan, folds)
    rounds = tuple(chosen_by_round(stored, plan, folds))
    result = ArmsResult(
        artefact=found.artefact,
        baseline=found.baseline,
        scores=found.scores,
        sentences=(
            *(each for _, part in parts for each in part.sentences),
            *round_sentences(plan, rounds),
            *oracle_sentences(stored, plan, losses, folds),
            *learning_sentences(stored, plan, losses, folds),
        ),
        spent={arm: _spent(stored, arm, named) for arm in plan.names()},
        retained=found.retained,
        items=found.items,
        skipped=found.skipped,
        files=tuple(str(path) for path in [*paths, *([export] if export else [])]),
        commands=tuple(commands),
        log_loss=log_loss,
        folds=len(folds) or None,
        rounds=rounds,
        by_size=tuple(SizeResult(n, each.baseline, each.scores, each.sentences) for n, each in sizes.items()),
        curve=tuple(
            _point(score, n, plan.prefix, log_loss)
            for n, each in sizes.items()
            for score in each.scores
            if score.arm.endswith(f"-n{n}")
        ),
    )
    paths[0].parent.mkdir(exist_ok=True)
    for path in paths:
        store.write_bytes(path, _text(path, result))
    if export is not None:
        write_output(export, _text(export, result), {"arms": result.artefact})
    if plot is not None:
        groups = [(f"{each.n:,} rows, ", each.baseline, each.scores) for each in result.by_size]
        write_arms(plot, groups or [("", result.baseline, result.scores)], kind="arms")
    return result


def _point(score: ArmScore, n: int, prefix: str, log_loss: Mapping[str, Mapping[str, float]]) -> CurvePoint:
    d = score.difference
    gain, low, high = (d.value, d.low, d.high) if d else (None, None, None)
    arm = score.arm.removeprefix(prefix).removesuffix(f"-n{n}")
    loss = log_loss.get(score.task, {}).get(score.arm)
    return CurvePoint(score.task, arm, n, score.value, score.low, score.high, gain, low, high, loss)


def check_outputs(
    plan: Plan, *, export: Path | None, recipe: Path | None, force: bool, plot: Path | None = None
) -> None:
    """UsageError, before anything runs, for a file that must not be written, or of another kind than can be."""
    stored = open_store(plan.store) if is_store(plan.store) else None
    retained = [str(task) for task in plan.evaluation.get("retain", ())]
    tasks = [split_name(task)[1] for task in (*plan.tasks, *retained)]
    read = Inputs([each for each in (plan.domain, plan.pool, *tasks) if each], (plan.model,))
    if export is not None:
        if export.suffix not in (".csv", ".json"):
            raise UsageError(
                f"--export {export}: this type can't be written.", "Give a file that ends in .csv or .json."
            )
        check_output(export, option="--export", inputs=read, stored=stored, force=force)
    if recipe is not None:
        check_output(recipe, option="--recipe", inputs=read, stored=stored, force=force)
    check_picture(plot, inputs=read, stored=stored, force=force)


def _text(path: Path, result: ArmsResult) -> bytes:
    return (as_csv(result) if path.suffix == ".csv" else as_json(result)).encode()


def as_csv(result: ArmsResult) -> str:
    """One line for each task and arm, under `COLUMNS`; what there is none of is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    tables: list[tuple[int | None, tuple[ArmScore, ...]]] = [(each.n, each.scores) for each in result.by_size]
    for size, scores in tables or [(None, result.scores)]:
        for score in scores:
            spent, d = result.spent[score.arm], score.difference
            values = [score.value, score.low, score.high, score.spread]
            values += [d.value, d.low, d.high, d.p, d.p_holm] if d else [None] * 5
            names = [score.task, score.arm, len(score.seeds), spent.rows, spent.tokens, score.n]
            loss = _cell(result.log_loss.get(score.task, {}).get(score.arm))
            more = [d.test if d else "", spent.steps, loss, "" if size is None else size]
            writer.writerow([*names, *map(_cell, values), *more])
    return text.getvalue()


def _cell(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.6g}"


def as_json(result: ArmsResult) -> str:
    """The whole result."""
    return to_json(result, indent=2) + "\n"


def _spent(stored: store.Store, arm: str, named: Mapping[str, Sequence[str]]) -> Spent:
    """Of an arm, whose runs are `named` by what they are called in each fold."""
    if arm == "base":
        return Spent(0, 0, 0)
    runs = [stored.get(f"runs/{each}") for run, own in named.items() if run.rpartition(".s")[0] == arm for each in own]
    chosen = [sum(stored.get(name).n for name in run.parents if name.startswith("selections/")) for run in runs]
    return Spent(
        rows=round(sum(chosen) / len(runs)),
        tokens=round(sum(int(run.read("tokens").sum()) for run in runs) / len(runs)),
        steps=round(sum(int((run.read("tokens") > 0).sum()) for run in runs) / len(runs)),
    )
