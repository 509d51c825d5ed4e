#!/usr/bin/env python
"""A dirty pool: half of the matching rows have wrong answers. Which scores notice, and which walk into it?

    python benchmarks/study/dirty_pool.py --task financial-fpb --data DIR --folder DIR [--model M]

The pool holds 600 rows of at most 40 words: 60 of the task's field with its own labels asked otherwise (`right`), 60
more with a wrong label (`wrong`), and 480 general ones. Warm-up, features and scores are those of rank_scores.py;
nothing else is trained. A score that sees labels puts right rows above wrong ones.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import supply
from environment import describe
from finds import sources_of, table
from planted import auc
from rank_scores import DOMAIN, SCORES, steps

from ntkcli.demo import demo_model_path
from ntkcli.steps.pipelines.recipe import write_recipe
from ntkcli.steps.shared.stores import open_store

MATCHING, GENERAL = 120, 480


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, choices=list(supply.TASKS))
    parser.add_argument("--data", type=Path, required=True, help="the files of tasks, and pool2.jsonl.gz")
    parser.add_argument("--folder", type=Path, required=True, help="where rows and store are kept")
    parser.add_argument("--model", help="default: the demo's SmolLM2-135M-Instruct")
    given = parser.parse_args()
    files = dirty_files(given.data, given.folder / "data", given.task)
    path, recipe = given.folder / f"{given.task}-dirty", given.folder / f"{given.task}-dirty.toml"
    write_recipe(recipe, list(steps(str(path), given.model or str(demo_model_path()), files)), comment="A dirty pool.")
    subprocess.run([sys.executable, "-m", "ntkcli", "run", str(recipe)], check=True, stdout=subprocess.DEVNULL)
    print(describe())
    print(table(path, against="general"))
    print("\n| score | AUC of right against wrong rows |\n|---|---|")
    source = sources_of(path)
    for name in SCORES:
        values = open_store(path).get(f"scores/{name}").read("score").astype(float)
        matching = np.where(source == "general", np.nan, values)
        print(f"| {name} | {auc(matching, source == 'right'):.3f} |")


def dirty_files(data: Path, folder: Path, task: str) -> dict[str, str]:
    """The domain, and the pool with its sources `right`, `wrong` and `general`."""
    domain = supply.domain_rows(data, task, DOMAIN, seed=0)
    matching = supply.wanted_rows(data, task, "wording", MATCHING, largest_domain=DOMAIN, seed=0)
    labels = sorted({row["completion"] for row in matching})
    draw = random.Random(0)
    pool = [{**row, "source": "general"} for row in supply.general_rows(data, task, GENERAL, seed=0)]
    for i, row in enumerate(matching):
        wrong = draw.choice([label for label in labels if label != row["completion"]])
        pool.append({**row, "source": "wrong", "completion": wrong} if i % 2 else {**row, "source": "right"})
    tables = {"domain": domain, "pool": pool}
    return {name: str(supply.write_rows(folder / f"{task}-dirty-{name}.jsonl", rows)) for name, rows in tables.items()}


if __name__ == "__main__":
    main()
