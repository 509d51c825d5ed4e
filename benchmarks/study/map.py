#!/usr/bin/env python
"""The map: when does choosing rows help? Trained on arms that choose nothing: the domain, random rows, right rows.

    python benchmarks/study/map.py recipe|map --data DIR --folder DIR --figures FILE.jsonl [--part I/N]
        [--short] [--task T ...] [--domain N ...] [--kind K ...] [--seeds 0,1] [--hours] [--model M]

`recipe` varies the training itself on one cell, `map` goes through the cells; docs/results.md has the protocol. Every
run appends one line to --figures: what was trained, tokens, seconds, log loss and accuracy on the test items (of every
item), and the environment. A run that is in the file is not trained again, so a second call goes on where the first was
stopped; `--part 0/2` and `--part 1/2` share the work between two processes. --short trains a fifth as long, on half the
items. --hours only prints what is left.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import supply
from runs import LONG, SHORT, Training, append, lines, train_and_test

from ntkcli.demo import demo_model_path

DOMAINS: Final = (32, 8, 128)
SHARES: Final = (0.05, 0.2, 0.01)
"""Of the right rows in the pool; all but the first for `SHARE_KIND` and the first size alone."""
SHARE_KIND: Final = "wording"
TOKENS_PER_SECOND: Final = 75
"""Of training, one thread of a 2-core machine; for --hours alone."""


@dataclass(frozen=True, slots=True)
class Run:
    """One training and its evaluation; `kind` and `share` are empty where the arm's rows don't depend on them."""

    task: str
    domain: int
    arm: str
    seed: int
    kind: str = ""
    share: float | None = None
    training: Training = LONG

    @property
    def name(self) -> str:
        """Of its artefact."""
        words = [self.task.partition("-")[2], f"d{self.domain}", self.kind, self.arm]
        words += [] if self.share is None else [f"r{round(100 * self.share)}"]
        default = asdict(LONG)
        words += [f"{key}-{value}" for key, value in asdict(self.training).items() if value != default[key]]
        return re.sub(r"[._]+", "_", "-".join(word for word in words if word)) + f".s{self.seed}"


def recipe_runs(seeds: tuple[int, ...], form: Training) -> Iterator[Run]:
    """One cell under three rates and two sizes of a step, then one of them in float32 and without averaged weights; in
    the short form under three rates.
    """
    if form == SHORT:
        for lr, seed in itertools.product((SHORT.lr, 3e-4, 2e-3), seeds):
            training = replace(SHORT, lr=lr)
            yield Run("financial-fpb", 32, "oracle", seed, "wording", training=training)
            yield Run("financial-fpb", 32, "random", seed, "wording", SHARES[0], training)
            yield Run("financial-fpb", 32, "domain-steps", seed, training=training)
        return
    choices = [Training(), Training(batch_size=4), Training(lr=2e-3), Training(lr=5e-4, batch_size=4)]
    choices += [Training(dtype="float32"), Training(average_weights=False)]
    for training in choices:
        for seed in seeds:
            yield Run("financial-fpb", 32, "oracle", seed, "skill", training=training)
            yield Run("financial-fpb", 32, "random", seed, "skill", 0.2, training)


def map_runs(given: argparse.Namespace) -> Iterator[Run]:
    """The map in the order of the protocol: one share for every task, size and kind, then the other shares, then alone.

    The domain's arms and the right rows do not depend on the share, and are trained once.
    """
    cells = [(task, domain) for domain in given.domain or DOMAINS for task in given.task or supply.TASKS]
    kinds = given.kind or supply.KINDS
    for task, domain in cells:
        for seed in given.seeds:
            yield Run(task, domain, "domain", seed, training=given.training)
            yield Run(task, domain, "domain-steps", seed, training=given.training)
        for kind in kinds:
            for seed in given.seeds:
                yield Run(task, domain, "oracle", seed, kind, training=given.training)
                yield Run(task, domain, "random", seed, kind, SHARES[0], given.training)
    middle = [(task, domain) for task, domain in cells if domain == DOMAINS[0]]
    for task, domain in middle:
        for seed in given.seeds:
            for share in SHARES[1:] if SHARE_KIND in kinds else ():
                yield Run(task, domain, "random", seed, SHARE_KIND, share, given.training)
    for task, domain in middle:
        for kind in kinds:
            for seed in given.seeds:
                yield Run(task, domain, "oracle-alone", seed, kind, training=given.training)
                yield Run(task, domain, "random-alone", seed, kind, SHARES[0], given.training)


def training_references(run: Run, data: Path, folder: Path) -> list[str]:
    """The values of --train: files with how often each is passed over in the one epoch."""
    stem, how = f"{run.task}-d{run.domain}", run.training
    domain = supply.write_rows(folder / f"{stem}.jsonl", supply.domain_rows(data, run.task, run.domain, seed=0))
    visits = how.visits + how.passes * how.rows if run.arm == "domain-steps" else how.visits
    own = [f"{domain}={visits / run.domain:g}"]
    if run.arm.startswith("domain"):
        return own
    largest = max(DOMAINS)
    wanted = supply.wanted_rows(data, run.task, run.kind, how.rows, largest_domain=largest, seed=run.seed)
    rows = wanted
    if run.share is not None:
        general = supply.general_rows(data, run.task, how.rows, seed=run.seed)
        rows = supply.random_draw(wanted, general, how.rows, run.share, seed=run.seed)
    share = "" if run.share is None else f"-r{round(100 * run.share)}"
    taken = supply.write_rows(folder / f"{run.task}-{run.kind}{share}-n{how.rows}-s{run.seed}.jsonl", rows)
    return [*([] if run.arm.endswith("-alone") else own), f"{taken}={how.passes}"]


def measure(run: Run, *, data: Path, folder: Path, model: str) -> dict[str, Any]:
    """Train, evaluate; the line of the run."""
    train = training_references(run, data, folder / "data")
    test = folder / "data" / f"{run.task}-test{run.training.items}.jsonl"
    supply.write_rows(test, supply.test_rows(data, run.task, run.training.items))
    found = train_and_test(folder / "store", run.name, train, test, training=run.training, seed=run.seed, model=model)
    of_run = {key: value for key, value in asdict(run).items() if key != "training"}
    return {"name": run.name, **of_run, **asdict(run.training), **found}


def main() -> None:
    given = parsed()
    runs = list(recipe_runs(given.seeds, given.training) if given.table == "recipe" else map_runs(given))
    done = {line["name"] for line in lines(given.figures)}
    part, parts = given.part
    left = [run for run in runs if run.name not in done][part::parts]
    tokens = 90 * (given.training.visits + given.training.passes * given.training.rows)
    print(f"{len(left)} of {len(runs)} runs left here, about {len(left) * tokens / TOKENS_PER_SECOND / 3600:.1f} hours")
    if given.hours:
        return
    model = given.model or str(demo_model_path())
    for run in left:
        append(given.figures, measure(run, data=given.data, folder=given.folder, model=model))
    print_summary(given.figures, {run.name for run in runs})


def print_summary(figures: Path, names: set[str]) -> None:
    """Mean log loss and accuracy by arm, over its seeds."""
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for line in lines(figures):
        if line["name"] in names:
            by_arm.setdefault(line["name"].rpartition(".s")[0], []).append(line)
    for arm, found in by_arm.items():
        nats = [line["nats"] for line in found]
        accuracy = [line["accuracy"] for line in found]
        spread = f"{min(nats):.3f} to {max(nats):.3f}"
        print(f"{arm:60} {np.mean(nats):.3f} nats ({spread}), accuracy {np.mean(accuracy):.3f}, {len(nats)} seeds")


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("recipe", "map"))
    parser.add_argument("--data", type=Path, required=True, help="the files of tasks, and pool2.jsonl.gz")
    parser.add_argument("--folder", type=Path, required=True, help="where rows and store are kept")
    parser.add_argument("--figures", type=Path, required=True, help="JSON Lines, a line for each run")
    parser.add_argument("--part", type=lambda text: tuple(map(int, text.split("/"))), default=(0, 1), help="I/N")
    parser.add_argument("--task", action="append", choices=list(supply.TASKS))
    parser.add_argument("--domain", type=int, action="append", help=f"rows of the domain; default: {DOMAINS}")
    parser.add_argument("--kind", action="append", choices=supply.KINDS)
    parser.add_argument("--seeds", type=lambda text: tuple(map(int, text.split(","))), default=(0, 1))
    parser.add_argument("--short", action="store_const", const=SHORT, default=LONG, dest="training")
    parser.add_argument("--hours", action="store_true", help="print what is left, run nothing")
    parser.add_argument("--model", help="default: the demo's SmolLM2-135M-Instruct")
    return parser.parse_args()


if __name__ == "__main__":
    main()
