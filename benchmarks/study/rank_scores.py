#!/usr/bin/env python
"""Which score should one trust? Every score of one pool, ranked by retraining (`ntksel validate`) on one cell.

    python benchmarks/study/rank_scores.py --task financial-fpb --data DIR --folder DIR [--subsets 40]
        [--design subsets] [--bins 5] [--score S ...] [--rows 64] [--domain-repeat 2] [--items 100] [--model M]
        [--figures FILE.jsonl]

Makes the cell's files, features and scores with the commands of the program, then one validation in which all scores
share their runs; a second call goes on where the first was stopped. docs/results.md has the protocol. The pool holds
1,000 rows of at most 40 words: 100 of the task's skill in other fields, 60 of the task's field in other words and
labels, 60 with its labels asked otherwise, 780 of neither.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import supply
from environment import describe

from ntkcli.demo import demo_model_path
from ntkcli.steps.pipelines.recipe import Step, write_recipe

DOMAIN: Final = 32
WANTED: Final = {"skill": 100, "reworded": 60, "wording": 60}
"""Right rows of the pool, by kind of supply."""
POOL: Final = 1000
TRAINING: Final[dict[str, Any]] = {"lr": 1e-3, "batch-size": 4, "dtype": "bfloat16", "max-length": 256}
FEATURES: Final[dict[str, dict[str, Any]]] = {
    "embed": {"kind": "embed"},
    "ntk": {"kind": "ntk", "probe": "sum"},
    "centred": {"kind": "ntk", "probe": "centred"},
    "light": {"kind": "ntk", "probe": "centred", "layers": "last:4", "dim": 1024},
    "loss": {"kind": "loss"},
    "adam": {"kind": "loss"},
}
SCORES: Final[dict[str, dict[str, Any]]] = {
    "random": {"method": "random"},
    "bm25": {"method": "bm25"},
    "embedding": {"method": "cosine", "feature": "embed", "centre": True},
    "votes": {"method": "votes", "feature": "embed"},
    "paper": {"method": "mean", "feature": "ntk"},
    "sum-cosine": {"method": "cosine", "feature": "ntk", "centre": True},
    "centred-mean": {"method": "mean", "feature": "centred"},
    "centred-cosine": {"method": "cosine", "feature": "centred", "centre": True},
    "centred-gist": {"method": "gist", "feature": "centred", "centre": True},
    "centred-whitened": {"method": "cosine", "feature": "centred", "centre": True, "whiten": 0.1},
    "light-cosine": {"method": "cosine", "feature": "light", "centre": True},
    "loss-cosine": {"method": "cosine", "feature": "loss", "centre": True},
    "less": {"method": "less", "feature": ["adam"]},
}


def main() -> None:
    given = parsed()
    model = given.model or str(demo_model_path())
    files = cell_files(given.data, given.folder / "data", given.task, given.items)
    store = given.folder / f"{given.task}-store"
    recipe = given.folder / f"{given.task}.toml"
    scores = given.score or list(SCORES)
    write_recipe(recipe, list(steps(str(store), model, files, scores)), comment=f"{given.task}: features and scores.")
    command = [sys.executable, "-m", "ntkcli"]
    subprocess.run([*command, "run", str(recipe)], check=True, stdout=subprocess.DEVNULL)
    options = [word for score in scores for word in ("--score", score)]
    options += ["--model", model, "--domain", files["domain"], "--task", files["test"], "--name", given.design]
    options += ["--design", given.design, "--subsets", str(given.subsets), "--bins", given.bins]
    options += ["--rows", str(given.rows), "--domain-repeat", str(given.domain_repeat)]
    options += ["--epochs", "1", "--seeds", given.seeds, "--oracle", "source=" + ",".join(WANTED)]
    options += [word for key, value in TRAINING.items() for word in (f"--{key}", str(value))]
    options += ["--export", str(given.folder / f"{given.task}.json"), "--force"]
    print(describe())
    subprocess.run([*command, "validate", str(store), *options], check=True)
    if given.figures is not None:
        with given.figures.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line(given)) + "\n")


def line(given: argparse.Namespace) -> dict[str, Any]:
    """What the validation found, without its curves of subsets, and what it was asked for."""
    found = json.loads((given.folder / f"{given.task}.json").read_text(encoding="utf-8"))
    asked = {
        key: getattr(given, key)
        for key in ("task", "design", "subsets", "bins", "rows", "domain_repeat", "seeds", "items")
    }
    curves = {each["score"]: each for each in found["curves"]}
    kept = ("lds_by_design", "dose")
    scores = [{**each, **{key: curves[each["score"]].get(key) for key in kept}} for each in found["scores"]]
    return {**asked, **found, "scores": scores, "curves": None, "environment": describe()}


def cell_files(data: Path, folder: Path, task: str, items: int) -> dict[str, str]:
    """The domain, the pool (its sources are the kinds of supply, or `general`) and the test items."""
    domain = supply.domain_rows(data, task, DOMAIN, seed=0)
    pool = supply.general_rows(data, task, POOL - sum(WANTED.values()), seed=0)
    pool = [{**row, "source": "general"} for row in pool]
    for kind, n in WANTED.items():
        rows = supply.wanted_rows(data, task, kind, n, largest_domain=DOMAIN, seed=len(kind))
        pool += [{**row, "source": kind} for row in rows]
    tables = {"domain": domain, "pool": pool, "test": supply.test_rows(data, task, items)}
    return {name: str(supply.write_rows(folder / f"{task}-{name}.jsonl", rows)) for name, rows in tables.items()}


def steps(store: str, model: str, files: dict[str, str], scores: Sequence[str]) -> Iterator[Step]:
    """Warm-up, features of both sides, scores."""
    on = {"model": model, "dtype": TRAINING["dtype"], "max-length": TRAINING["max-length"]}
    warm_up = {"train": [files["domain"]], "name": "warmup", "epochs": 4, "loss-per": "row", "keep-optimizer": True}
    yield Step("finetune", store, {**warm_up, **TRAINING, "model": model})
    used = {str(feature) for score in scores for feature in np.atleast_1d(SCORES[score].get("feature", []))}
    for feature, how in ((feature, how) for feature, how in FEATURES.items() if feature in used):
        for side in ("domain", "pool"):
            more = {"adam": True} if feature == "adam" and side == "pool" else {}
            values = {"data": files[side], "name": side, "feature": feature, "adapter": "warmup", **how, **more, **on}
            yield Step("featurize", store, values)
    for score in scores:
        how = SCORES[score]
        sides = {"pool": "pool"} if how["method"] == "random" else {"pool": "pool", "domain": ["domain"]}
        yield Step("score", store, {**sides, **how, "name": score})


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, choices=list(supply.TASKS))
    parser.add_argument("--data", type=Path, required=True, help="the files of tasks, and pool2.jsonl.gz")
    parser.add_argument("--folder", type=Path, required=True, help="where rows, stores and results are kept")
    parser.add_argument("--design", default="subsets", choices=("subsets", "bins", "both"))
    parser.add_argument("--subsets", type=int, default=40)
    parser.add_argument("--bins", default="5", help="how many equal bins, or their edges in percent of the ranks")
    parser.add_argument("--score", action="append", choices=list(SCORES), help="only these")
    parser.add_argument("--rows", type=int, default=64, help="rows of the pool in a run")
    parser.add_argument("--domain-repeat", type=int, default=2, help="visits of a domain row in a run")
    parser.add_argument("--seeds", default="0,1", help="of the runs that are not subsets")
    parser.add_argument("--items", type=int, default=100, help="test items")
    parser.add_argument("--figures", type=Path, help="append the result to this file, a line for each call")
    parser.add_argument("--model", help="default: the demo's SmolLM2-135M-Instruct")
    return parser.parse_args()


if __name__ == "__main__":
    main()
