#!/usr/bin/env python
"""Is there a gain to find in the demo's cell? Right rows against random rows, before any score is computed.

    python benchmarks/study/demo_cell.py --folder DIR --figures benchmarks/figures/demo_cell.jsonl [--seeds 0,1,2]
        [--arm oracle ...] [--dtype bfloat16]

The rows, sizes and training are the demo's. `oracle` takes the rows hidden in the pool, `random` draws from all of it,
`domain` takes none, `domain-steps` none for as many steps. Each run appends a line to --figures; a second call goes on.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from environment import describe
from supply import write_rows
from table import log_loss

from ntkcli.demo import demo_model_path, write_demo_data
from ntkcli.demo import pipeline as p
from ntkcli.demo.reviews import HIDDEN_SOURCE
from ntkcli.steps.evaluation.evaluate import evaluate
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training.finetune import finetune

ARMS: Final = ("oracle", "random", "domain", "domain-steps")
TRAINING: Final[dict[str, Any]] = {
    "epochs": 1, "lr": 1e-3, "batch_size": 4, "loss_per": "row", "average_weights": True,
}  # fmt: skip


def main() -> None:
    given = parsed()
    done = set()
    if given.figures.exists():
        done = {json.loads(line)["name"] for line in given.figures.read_text(encoding="utf-8").splitlines()}
    for seed in map(int, given.seeds.split(",")):
        for arm in given.arm or ARMS:
            if f"{arm}.s{seed}" in done:
                continue
            line = measure(arm, seed, folder=given.folder, dtype=given.dtype)
            given.figures.parent.mkdir(parents=True, exist_ok=True)
            with given.figures.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(
                " ".join(f"{key} {line[key]}" for key in ("name", "nats", "accuracy", "tokens", "seconds")), flush=True
            )


def measure(arm: str, seed: int, *, folder: Path, dtype: str) -> dict[str, Any]:
    """Train, evaluate; the line of the run."""
    began = time.time()
    place = folder / f"s{seed}"
    data = write_demo_data(place, seed=seed, n_train=p.N_TRAIN, n_test=p.N_TEST, n_pool=p.N_POOL, n_hidden=p.N_HIDDEN)
    visits = p.DOMAIN_TIMES * p.N_TRAIN + (p.N_PICKED if arm == "domain-steps" else 0)
    train = [f"{data.train}={visits / p.N_TRAIN:g}"]
    if not arm.startswith("domain"):
        pool = [json.loads(line) for line in data.pool.read_text(encoding="utf-8").splitlines()]
        rows = [row for row in pool if row["source"] == HIDDEN_SOURCE] if arm == "oracle" else pool
        train.append(str(write_rows(place / f"{arm}.jsonl", random.Random(seed).sample(rows, p.N_PICKED))))
    store = place / "store"
    shared: dict[str, Any] = {"model": str(demo_model_path()), "max_length": p.MAX_LENGTH, "dtype": dtype}
    trained = finetune(store, name=arm, train=train, seed=seed, **TRAINING, **shared)
    evaluate(store, run=[arm], task=[str(data.test)], name="test", **shared)
    found = open_store(store).get(f"evals/test/{arm}")
    return {
        "name": f"{arm}.s{seed}",
        "arm": arm,
        "seed": seed,
        "dtype": dtype,
        "steps": trained.steps,
        "tokens": trained.tokens,
        "nats": round(float(log_loss(found).mean()), 4),
        "accuracy": round(float(found.read("correct").mean()), 4),
        "seconds": round(time.time() - began),
        "environment": describe(),
    }


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where rows and stores are kept")
    parser.add_argument("--figures", type=Path, required=True, help="JSON Lines, a line for each run")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--arm", action="append", choices=ARMS, help="only these")
    parser.add_argument("--dtype", default="float32", help="bfloat16 is faster where the processor has it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
