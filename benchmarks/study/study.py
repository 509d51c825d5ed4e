#!/usr/bin/env python
"""The study: every way of choosing rows, trained on one cell of the map under one budget.

    python benchmarks/study/study.py --task financial-fpb --kind reworded --data DIR --folder DIR --figures FILE.jsonl
        [--domain 32] [--arm A ...] [--part I/N] [--hours] [--table] [--model M]

Of the pool's 1,280 rows of at most 40 words 64 are right, and every arm takes 64 and trains as the short form of the
map does. Makes the cell's files, features, scores and selections with the commands of the program, then trains run by
run: each appends a line to --figures, and a second call goes on where the first was stopped. `--part 0/2` and `--part
1/2` share the trainings between two processes. --table only prints the table of what is there. docs/results.md has the
protocol.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

import supply
from environment import describe
from runs import MAX_LENGTH, SHORT, append, item_values, lines, tested, train_and_test
from table import print_table

from ntkcli.demo import demo_model_path
from ntkcli.steps.pipelines.recipe import Step, write_recipe
from ntkcli.steps.shared.stores import open_store

DOMAIN: Final = 32
"""Rows of the domain, unless --domain says otherwise."""
POOL: Final = 1280
PRESELECTED: Final = 4 * SHORT.rows
SEEDS: Final = (0, 1, 2)
DRAWS: Final = 5
"""Of random rows; every other arm has one run for each of `SEEDS`."""
NO_SCORE: Final = ("domain", "domain-steps", "random", "oracle")
FEATURES: Final[dict[str, dict[str, Any]]] = {
    "embed": {"kind": "embed"},
    "centred": {"kind": "ntk", "probe": "centred"},
    "light": {"kind": "ntk", "probe": "centred", "layers": "last:4", "dim": 1024},
    "adam": {"kind": "loss"},
    "ntk": {"kind": "ntk", "probe": "sum"},
}
CENTRED: Final[dict[str, Any]] = {"method": "cosine", "centre": True}
SCORES: Final[dict[str, dict[str, Any]]] = {
    "embedding": {**CENTRED, "feature": "embed"},
    "bm25": {"method": "bm25"},
    "votes": {"method": "votes", "feature": "embed"},
    "light": {**CENTRED, "feature": "light"},
    "less": {"method": "less", "feature": ["adam"]},
    "paper": {"method": "mean", "feature": "ntk"},
    "centred": {**CENTRED, "feature": "centred"},
    "centred-light": {**CENTRED, "feature": "centred"},
    "votes-centred": {**CENTRED, "feature": "centred"},
    "gist": {"method": "gist", "feature": "centred", "centre": True},
    "ranks": {"combine": ["embedding", "centred"]},
}
"""In the order in which they are made. `centred-light` is `centred` behind a pre-selection by `light`, `votes-centred`
behind one by `votes` (the example recipe and the demo); `ranks` is the mean rank of an embedding and the kernel."""
BEHIND: Final = {"paper": "votes", "centred-light": "light", "votes-centred": "votes"}
"""Scores of the best `PRESELECTED` rows by another score alone."""
ARMS: Final = (*NO_SCORE, *(score for score in SCORES if score not in BEHIND.values()))
BASELINES: Final = ("random", "domain-steps")
SECONDS_A_RUN: Final = 90
"""One thread of a 2-core machine; for --hours alone."""


def main() -> None:
    given = parsed()
    cell = cell_name(given.task, given.kind, given.domain)
    runs = [(arm, seed) for arm in given.arm or ARMS for seed in (range(DRAWS) if arm == "random" else SEEDS)]
    runs = [("base", 0), *sorted(runs, key=lambda run: run[1])]
    done = {line["name"] for line in lines(given.figures)}
    left = [run for run in runs if run_name(cell, *run) not in done][given.part[0] :: given.part[1]]
    print(f"{len(left)} of {len(runs)} runs left here, about {len(left) * SECONDS_A_RUN / 3600:.1f} hours", flush=True)
    if given.hours:
        return
    if not given.table:
        model = given.model or str(demo_model_path())
        files = cell_files(given.data, given.folder / "data", given.task, given.kind, domain=given.domain)
        store, recipe = given.folder / f"{cell}-store", given.folder / f"{cell}.toml"
        made = list(steps(str(store), model, files, needed(given.arm or ARMS)))
        write_recipe(recipe, made, comment=f"{cell}: features, scores, selections.")
        command = [sys.executable, "-m", "ntkcli", "run", str(recipe)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for arm, seed in left:
            found = measured(cell, arm, seed, domain=given.domain, files=files, store=store, model=model)
            append(given.figures, found)
    print_study(cell, [line for line in lines(given.figures) if line["cell"] == cell])


def cell_name(task: str, kind: str, domain: int) -> str:
    """Of a cell's lines, files and store."""
    return f"{task}-{kind}" if domain == DOMAIN else f"{task}-{kind}-d{domain}"


def run_name(cell: str, arm: str, seed: int) -> str:
    """Of a run's line and artefact."""
    return f"{cell}-{arm}.s{seed}".replace("_", "-")


def measured(
    cell: str, arm: str, seed: int, *, domain: int, files: dict[str, Path], store: Path, model: str
) -> dict[str, Any]:
    """Train one arm with one seed and test it: its line."""
    name = run_name(cell, arm, seed)
    of_run: dict[str, Any] = {"name": name, "cell": cell, "arm": arm, "seed": seed}
    if arm == "base":
        return {**of_run, **tested(store, "base", files["test"], training=SHORT, model=model)}
    visits = SHORT.visits + (SHORT.rows if arm == "domain-steps" else 0)
    train = [f"{files['domain']}={visits / domain:g}"]
    if not arm.startswith("domain"):
        pool = [json.loads(line) for line in files["pool"].read_text(encoding="utf-8").splitlines()]
        rows = [pool[i] for i in rows_of(arm, seed, pool, store)]
        of_run["right"] = sum(row["source"] != "general" for row in rows)
        train.append(str(supply.write_rows(files["pool"].parent / "picked" / f"{name}.jsonl", rows)))
    how: dict[str, Any] = {"training": SHORT, "seed": seed, "model": model}
    return {**of_run, **train_and_test(store, name, train, files["test"], **how)}


def rows_of(arm: str, seed: int, pool: list[supply.Row], store: Path) -> list[int]:
    """Positions in the pool of the rows that an arm takes, ascending."""
    if arm == "random":
        return sorted(random.Random(seed).sample(range(len(pool)), SHORT.rows))
    if arm == "oracle":
        return [i for i, row in enumerate(pool) if row["source"] != "general"]
    return sorted(int(i) for i in open_store(store).get(f"selections/{arm}").read("row"))


def cell_files(data: Path, folder: Path, task: str, kind: str, *, domain: int) -> dict[str, Path]:
    """The domain, the pool (its sources: the kind of supply, and `general`) and the test items."""
    right = supply.wanted_rows(data, task, kind, SHORT.rows, largest_domain=128, seed=0)
    pool = [{**row, "source": kind} for row in right]
    pool += [{**row, "source": "general"} for row in supply.general_rows(data, task, POOL - len(right), seed=0)]
    random.Random(0).shuffle(pool)
    tables = {
        "domain": supply.domain_rows(data, task, domain, seed=0),
        "pool": pool,
        "test": supply.test_rows(data, task, SHORT.items),
    }
    cell = cell_name(task, kind, domain)
    return {name: supply.write_rows(folder / f"{cell}-{name}.jsonl", rows) for name, rows in tables.items()}


def needed(arms: Sequence[str]) -> set[str]:
    """The scores that these arms are chosen by, and those that come before them."""
    found = {arm for arm in arms if arm in SCORES}
    before = {BEHIND[arm] for arm in found & BEHIND.keys()}
    return found | before | {score for arm in found for score in SCORES[arm].get("combine", ())}


def steps(store: str, model: str, files: dict[str, Path], scores: set[str]) -> Iterator[Step]:
    """Warm-up, features of both sides, scores, selections."""
    on = {"model": model, "dtype": SHORT.dtype, "max-length": MAX_LENGTH}
    warm_up = {"epochs": 4, "lr": SHORT.lr, "batch-size": SHORT.batch_size, "loss-per": "row", "keep-optimizer": True}
    yield Step("finetune", store, {"train": [str(files["domain"])], "name": "warmup", **warm_up, **on})
    made: set[str] = set()
    for score, how in ((score, how) for score, how in SCORES.items() if score in scores):
        behind = BEHIND.get(score)
        rows = {} if behind is None else {"rows": f"best-{behind}"}
        needs = how.get("feature", ())
        for feature in [needs] if isinstance(needs, str) else needs:
            if feature not in made:
                made.add(feature)
                yield from _featurized(feature, store, files, {**on, "adapter": "warmup"}, rows)
        sides = {} if "combine" in how else {"pool": "pool", "domain": ["domain"]}
        yield Step("score", store, {**sides, **how, **rows, "name": score})
        if score in BEHIND.values():
            yield Step("select", store, {"score": score, "n": PRESELECTED, "name": f"best-{score}"})
        else:
            yield Step("select", store, {"score": score, "n": SHORT.rows, "name": score})


def _featurized(
    feature: str, store: str, files: dict[str, Path], on: dict[str, Any], rows: dict[str, str]
) -> Iterator[Step]:
    """One feature of both sides; LESS compares plain gradients of the domain with Adam's steps."""
    for side, more in (("domain", {}), ("pool", {**rows, **({"adam": True} if feature == "adam" else {})})):
        values = {"data": str(files[side]), "name": side, "feature": feature, **FEATURES[feature], **more, **on}
        yield Step("featurize", store, values)


def print_study(cell: str, found: list[dict[str, Any]]) -> None:
    """The table of the runs that are there, with how many right rows each arm took and the tokens of a run."""
    values: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for line in found:
        by_arm.setdefault(line["arm"], []).append(line)
        for measure, of_items in zip(values, item_values(line), strict=True):
            measure.setdefault(line["arm"], {})[str(line["seed"])] = of_items
    print(describe())
    if "random" not in by_arm:
        return
    more = {
        f"right of {SHORT.rows}": {arm: _range([line.get("right") for line in runs]) for arm, runs in by_arm.items()},
        "tokens": {arm: _range([line.get("tokens") for line in runs]) for arm, runs in by_arm.items()},
    }
    print_table(cell, {cell: values}, [arm for arm in ARMS if arm in by_arm], BASELINES, more=more)


def _range(values: Sequence[int | None]) -> str:
    """One number, or the lowest and the highest; nothing where there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    return f"{min(known):,}" if min(known) == max(known) else f"{min(known):,} to {max(known):,}"


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, choices=list(supply.TASKS))
    parser.add_argument("--kind", required=True, choices=supply.KINDS)
    parser.add_argument("--data", type=Path, required=True, help="the files of tasks, and pool2.jsonl.gz")
    parser.add_argument("--folder", type=Path, required=True, help="where rows and store are kept")
    parser.add_argument("--figures", type=Path, required=True, help="JSON Lines, a line for each run")
    parser.add_argument("--domain", type=int, default=DOMAIN, help=f"rows of the domain; default: {DOMAIN}")
    parser.add_argument("--arm", action="append", choices=ARMS, help="train only these")
    parser.add_argument("--part", type=lambda text: tuple(map(int, text.split("/"))), default=(0, 1), help="I/N")
    parser.add_argument("--hours", action="store_true", help="print what is left, run nothing")
    parser.add_argument("--table", action="store_true", help="print the table, run nothing")
    parser.add_argument("--model", help="default: the demo's SmolLM2-135M-Instruct")
    return parser.parse_args()


if __name__ == "__main__":
    main()
