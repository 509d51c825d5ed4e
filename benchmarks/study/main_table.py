#!/usr/bin/env python
"""The main table: does choosing rows help, and which choice? Every arm under one budget, on real tasks.

    python benchmarks/study/main_table.py --data DIR --folder DIR [--full] [--task T ...] [--arm A ...] [--seeds 0,1,2]
        [--model M] [--recipe-only | --table-only]

Writes one recipe a cell (task, |D|, |S|) to --folder and runs it there (`ntksel run`): a second call goes on where the
first was stopped. --data holds <task>-train.jsonl, <task>-test.jsonl and pool.jsonl.gz with prompt, completion, and in
the test files choices and answer. The reduced table takes hours of two cores, --full a GPU.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from arms import ARMS, Plan
from environment import describe
from setting import FULL, REDUCED, cut_data
from table import print_tables

from ntkcli.demo import demo_model_path
from ntkcli.steps.recipe import write_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the files of tasks and pool")
    parser.add_argument("--folder", type=Path, required=True, help="where data, recipes and store are kept")
    parser.add_argument("--full", action="store_true", help="every task, size and row: for a GPU")
    parser.add_argument("--task", action="append", help="only these; default: the setting's")
    parser.add_argument("--arm", action="append", choices=ARMS, help="only these; default: all")
    parser.add_argument("--seeds", help="by commas; default: 0,1,2")
    parser.add_argument("--model", help="default: the demo's SmolLM2-135M-Instruct")
    parser.add_argument("--recipe-only", action="store_true", help="write the recipes, run nothing")
    parser.add_argument("--table-only", action="store_true", help="only print what is there")
    given = parser.parse_args()
    setting = FULL if given.full else REDUCED
    setting = replace(setting, tasks=tuple(given.task or setting.tasks))
    setting = replace(setting, seeds=tuple(map(int, given.seeds.split(","))) if given.seeds else setting.seeds)
    model = given.model or str(demo_model_path())
    arms = tuple(arm for arm in ARMS if arm in (given.arm or ARMS))
    cut_data(given.data, given.folder, setting)
    plans = [Plan(cell, setting, given.folder, model, arms) for cell in setting.cells()]
    for plan in plans:
        recipe = given.folder / f"{plan.cell.name}.toml"
        write_recipe(recipe, plan.steps(), comment=f"{plan.cell.name}: {', '.join(arms)}; seeds {setting.seeds}.")
        if not (given.recipe_only or given.table_only):
            subprocess.run([sys.executable, "-m", "ntkcli", "run", str(recipe)], check=True, stdout=subprocess.DEVNULL)
    if not given.recipe_only:
        print(describe())
        print_tables(plans)


if __name__ == "__main__":
    main()
