#!/usr/bin/env python
"""Does choosing rows help, and which choice? Every arm under one budget, on real tasks.

    python benchmarks/study/compare.py main|choices --data DIR --folder DIR [--full] [--task T ...]
        [--domain N ...] [--times K ...] [--arm A ...] [--seeds 0,1,2] [--baseline A ...] [--model M]
        [--recipe-only | --selections-only | --table-only]

`main` is the main table: the paper's method, its variants, its rivals, random rows and the domain alone. `choices`
varies one factor at a time around `sum-cosine-centre`, and prints how the selections agree with its.

Writes one recipe a cell (task, |D|, |S|) to --folder and runs it there (`ntksel run`): a second call goes on where the
first was stopped, and two processes may share the arms and seeds of a cell. --data holds <task>-train.jsonl,
<task>-test.jsonl and pool.jsonl.gz with prompt, completion, and in the test files choices and answer. The reduced table
takes hours of two cores, --full a GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from zlib import crc32

sys.path.insert(0, str(Path(__file__).parents[1]))

from agreement import print_agreement
from arms import CHOICES, CHOSEN, MAIN, REFERENCE
from environment import describe
from plan import Plan
from setting import FULL, REDUCED, cut_data
from table import print_tables

from ntkcli.demo import demo_model_path
from ntkcli.steps.pipelines.recipe import write_recipe

TABLES = {"main": MAIN, "choices": (REFERENCE, *CHOICES)}
BASELINES = {"main": ("random", "domain-tokens"), "choices": (REFERENCE,)}
"""The arms that the others are compared with, of each table."""


def main() -> None:
    given = parsed()
    setting = FULL if given.full else REDUCED
    setting = replace(
        setting,
        tasks=tuple(given.task or setting.tasks),
        domains=tuple(given.domain or setting.domains),
        times=tuple(given.times or setting.times),
        seeds=tuple(map(int, given.seeds.split(","))) if given.seeds else setting.seeds,
    )
    model = given.model or str(demo_model_path())
    arms = tuple(arm for arm in TABLES[given.table] if arm in (given.arm or TABLES[given.table]))
    cut_data(given.data, given.folder, setting)
    plans = [Plan(cell, setting, given.folder, model, arms) for cell in setting.cells()]
    for plan in plans:
        steps = list(plan.selections()) if given.selections_only else plan.steps()
        comment = f"{plan.cell.name}: {', '.join(arms)}; seeds {setting.seeds}."
        recipe = given.folder / f"{plan.cell.name}-{given.table}-{crc32(comment.encode()):08x}.toml"
        write_recipe(recipe, steps, comment=comment)
        if not (given.recipe_only or given.table_only):
            subprocess.run([sys.executable, "-m", "ntkcli", "run", str(recipe)], check=True, stdout=subprocess.DEVNULL)
    if given.recipe_only:
        return
    print(describe())
    print_agreement(plans, [arm for arm in arms if arm in CHOSEN or arm in CHOICES])
    print_tables(plans, given.baseline or BASELINES[given.table])


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--data", type=Path, required=True, help="the files of tasks and pool")
    parser.add_argument("--folder", type=Path, required=True, help="where data, recipes and store are kept")
    parser.add_argument("--full", action="store_true", help="every task, size and row: for a GPU")
    parser.add_argument("--task", action="append", help="only these; default: the setting's")
    parser.add_argument("--domain", type=int, action="append", help="|D|, only these; default: the setting's")
    parser.add_argument("--times", type=int, action="append", help="|S| / |D|, only these; default: the setting's")
    parser.add_argument("--arm", action="append", help="only these; default: all of the table")
    parser.add_argument("--seeds", help="by commas; default: 0,1,2")
    parser.add_argument("--baseline", action="append", help=f"arms to subtract; default: {BASELINES}")
    parser.add_argument("--model", help="default: the demo's SmolLM2-135M-Instruct")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--recipe-only", action="store_true", help="write the recipes, run nothing")
    only.add_argument("--selections-only", action="store_true", help="choose the rows, train nothing")
    only.add_argument("--table-only", action="store_true", help="only print what is there")
    given = parser.parse_args()
    if unknown := set(given.arm or ()) - set(TABLES[given.table]):
        parser.error(f"--arm {', '.join(sorted(unknown))}: the table has {', '.join(TABLES[given.table])}")
    return given


if __name__ == "__main__":
    main()
