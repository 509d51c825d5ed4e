#!/usr/bin/env python
"""Can one warm-up, and so one pass over the pool, serve several domains? What the kernel chooses with each adapter.

    python benchmarks/study/shared_warmup.py --task legal-clause --kind wording --data DIR --folder DIR
        [--figures FILE.jsonl] [--model M]

On a cell of the study, and with what study.py has made in --folder: the default kernel with an adapter warmed up on the
task's own domain (`own`), on the same with another seed (`again`), and on the domains of four tasks (`shared`). For
each, Spearman with `own`, the rows that it chooses alike, and the right rows among them: of the whole pool, and of the
best rows by embedding votes. Trains nothing on the rows that are chosen.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1]))

import study
import supply
from environment import describe
from runs import SHORT, append

from ntkcli.demo import demo_model_path
from ntkcli.steps.pipelines.recipe import Step, write_recipe
from ntkcli.steps.shared.stores import open_store

OWN: Final = "centred"
"""The study's own features and score."""
ADAPTERS: Final = {"own": OWN, "again": "centred-again", "shared": "centred-shared"}
"""How the features and the score with each adapter are called."""


def main() -> None:
    given = parsed()
    model = given.model or str(demo_model_path())
    cell = f"{given.task}-{given.kind}"
    files = study.cell_files(given.data, given.folder / "data", given.task, given.kind)
    store, recipe = given.folder / f"{cell}-store", given.folder / f"{cell}-warm-ups.toml"
    domains = [row for task in supply.TASKS for row in supply.domain_rows(given.data, task, study.DOMAIN, seed=0)]
    union = supply.write_rows(given.folder / "data" / "union.jsonl", domains)
    made = list(study.steps(str(store), model, files, study.needed([OWN, "votes-centred"])))
    write_recipe(recipe, [*made, *more_steps(made, str(union))], comment=f"{cell}: one kernel, three warm-ups.")
    command = [sys.executable, "-m", "ntkcli", "run", str(recipe)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(describe())
    for line in compared(store):
        print(line)
        if given.figures is not None:
            append(given.figures, {"cell": cell, **line})


def more_steps(made: list[Step], union: str) -> Iterator[Step]:
    """The study's warm-up, features and score once more, with other adapters."""
    (warm_up,) = [step for step in made if step.verb == "finetune"]
    features = [step for step in made if step.verb == "featurize" and step.values["feature"] == OWN]
    (score,) = [step for step in made if step.verb == "score" and step.values["name"] == OWN]
    for adapter, change in (("again", {"seed": 1}), ("shared", {"train": [union]})):
        feature = ADAPTERS[adapter]
        yield _changed(warm_up, {"name": f"warmup-{adapter}", **change})
        for step in features:
            yield _changed(step, {"feature": feature, "adapter": f"warmup-{adapter}"})
        yield _changed(score, {"name": feature, "feature": feature})


def _changed(step: Step, change: dict[str, Any]) -> Step:
    return Step(step.verb, step.store, {**step.values, **change})


def compared(store: Path) -> Iterator[dict[str, Any]]:
    """What the score with each adapter chooses, next to that with the task's own."""
    stored = open_store(store)
    pool = stored.get("datasets/pool")
    right = np.array([label != "general" for label in pool.attrs["sources"]])[pool.read("source")]
    behind = np.zeros(pool.n, dtype=bool)
    behind[stored.get("selections/best-votes").read("row")] = True
    score = {adapter: stored.get(f"scores/{name}").read("score") for adapter, name in ADAPTERS.items()}
    for adapter, values in score.items():
        line: dict[str, Any] = {"adapter": adapter, "spearman": float(stats.spearmanr(values, score["own"]).statistic)}
        for among, rows in (("pool", np.full(pool.n, fill_value=True)), ("votes", behind)):
            chosen = best(values, rows)
            alike = len(np.intersect1d(chosen, best(score["own"], rows)))
            line |= {f"{among}_alike": alike, f"{among}_right": int(right[chosen].sum())}
        yield line


def best(values: NDArray[np.floating], rows: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Positions of the rows that an arm of the study takes: the highest of those in `rows`."""
    return np.argsort(-np.where(rows, values, -np.inf), kind="stable")[: SHORT.rows]


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, choices=list(supply.TASKS))
    parser.add_argument("--kind", required=True, choices=supply.KINDS)
    parser.add_argument("--data", type=Path, required=True, help="the files of tasks, and pool2.jsonl.gz")
    parser.add_argument("--folder", type=Path, required=True, help="the study's: where rows and store are kept")
    parser.add_argument("--figures", type=Path, help="JSON Lines, a line for each adapter")
    parser.add_argument("--model", help="default: the demo's SmolLM2-135M-Instruct")
    return parser.parse_args()


if __name__ == "__main__":
    main()
