#!/usr/bin/env python
"""Is there a gain to find in the cell "reviews"? Right rows against random rows, before any score is computed.

    python benchmarks/study/reviews_cell.py --folder DIR --figures benchmarks/figures/reviews_cell.jsonl
        [--seeds 0,1,2] [--arm oracle ...] [--dtype bfloat16]

`oracle` takes the reviews hidden in the pool, `random` draws from all of it, `domain` takes none, `domain-steps` none
for as many steps. Each run appends a line to --figures; a second call goes on.
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
from reviews import HIDDEN_SOURCE, write_reviews
from supply import write_rows
from table import log_loss

from ntkcli.demo import demo_model_path
from ntkcli.steps.evaluation.evaluate import evaluate
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training.finetune import finetune

N_TRAIN, N_TEST, N_POOL, N_HIDDEN = 12, 100, 480, 90
N_PICKED: Final = 72
MAX_LENGTH: Final = 160
"""Tokens; the longest row has fewer."""
DOMAIN_TIMES: Final = 4
"""How often an arm is trained on each row of the domain; on each row from the pool it is once."""
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
    data = write_reviews(place, seed=seed, n_train=N_TRAIN, n_test=N_TEST, n_pool=N_POOL, n_hidden=N_HIDDEN)
    visits = DOMAIN_TIMES * N_TRAIN + (N_PICKED if arm == "domain-steps" else 0)
    train = [f"{data.train}={visits / N_TRAIN:g}"]
    if not arm.startswith("domain"):
        pool = [json.loads(line) for line in data.pool.read_text(encoding="utf-8").splitlines()]
        rows = [row for row in pool if row["source"] == HIDDEN_SOURCE] if arm == "oracle" else pool
        train.append(str(write_rows(place / f"{arm}.jsonl", random.Random(seed).sample(rows, N_PICKED))))
    store = place / "store"
    shared: dict[str, Any] = {"model": str(demo_model_path()), "max_length": MAX_LENGTH, "dtype": dtype}
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
