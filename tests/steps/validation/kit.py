"""A made-up world: a store with a pool, scores of known truth, and a trainer that needs no model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import store
from ntkcli.steps.scores.score import create_score, write_score
from ntkcli.steps.shared.datasets import register_data
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.validation.bench import Measured
from tests.conftest import WORDS, choice_rows, prompt_rows, write_rows

POOL = 400
GAIN = 0.5
"""Nats by which a run whose rows are all of the highest worth lowers the loss."""


def worth_of(rows: int = POOL) -> np.ndarray:
    """How much each row of the pool truly helps: even shares of 0 to 1, in a fixed disorder."""
    return np.random.default_rng(11).permutation(rows) / rows


def add_score(stored: store.Store, name: str, values: np.ndarray, *, data: str = "pool", **how: Any) -> None:
    dataset = stored.get(f"datasets/{data}")
    spec = {"version": 1, "method": "made", "data": dataset.spec["digest"], "rows": None, "name": name, **how}
    artefact = create_score(stored, name, spec, {dataset.name: dataset.fingerprint}, dataset)
    write_score(artefact, values.astype(np.float32), None)


def make_world(folder: Path, *, rows: int = POOL) -> dict[str, Any]:
    """A store with a pool of four sources and three scores (right, reversed, chance), a domain and a test file."""
    pool = prompt_rows(rows, seed=3)
    for i, row in enumerate(pool):
        row["source"] = "abcd"[i % 4]
        row["prompt"] = f"{row['prompt']} {WORDS[i % 7]} {i}"
    domain = [{**row, "prompt": f"domain {row['prompt']} {i}"} for i, row in enumerate(prompt_rows(20, seed=5))]
    test = [{**row, "prompt": f"test {i} {row['prompt']}"} for i, row in enumerate(choice_rows(24))]
    files = {
        name: write_rows(folder / f"{name}.jsonl", own)
        for name, own in {"pool": pool, "domain": domain, "test": test}.items()
    }
    stored = open_store(folder / "s", create=True)
    register_data(stored, name="pool", data=files["pool"])
    worth = worth_of(rows)
    for name, values in {
        "right": worth, "reversed": -worth, "chance": np.random.default_rng(2).random(rows)
    }.items():  # fmt: skip
        add_score(stored, name, values)
    return {"store": folder / "s", "files": files, "worth": worth}


class MadeUp:
    """A trainer whose loss falls by the mean worth of the rows trained on, with a little noise by seed and rows.

    `lost`: every run whose number is in it diverges. Counts its calls.
    """

    def __init__(
        self, world: dict[str, Any], *, noise: float = 0.02, lost: Sequence[int] = (), gain: float = GAIN
    ) -> None:
        self.worth = {f"3-{i}": float(value) for i, value in enumerate(world["worth"])}
        self.noise, self.lost, self.gain, self.calls = noise, lost, gain, 0
        self.stop_after: int | None = None
        self.trained: list[set[str]] = []  # the domain's rows of each run over folds

    def __call__(self, request: Any, _: Any) -> Any:
        items = len(request.items.rows)
        base = np.random.default_rng(0).exponential(0.5, items) + 0.2

        def train(rows: Any, names: Sequence[str], *, seed: int, keep: Any, only: Any = None, **_: Any) -> Measured:
            number, self.calls = self.calls, self.calls + 1
            if self.stop_after is not None and number >= self.stop_after:
                raise KeyboardInterrupt
            if number in self.lost:
                return Measured(np.full(items, np.nan), np.zeros(items, np.bool_), 7, diverged=True)
            ids = [name.partition("(id ")[2].rstrip(")") for name in names]
            own = [self.worth[one] for one in ids if one in self.worth]
            draw = np.random.default_rng([seed, round(1e6 * sum(own))])
            level = -self.gain * float(np.mean(own)) if own else 0.0
            level += self.noise * float(draw.normal())
            nats = base + 0.3 + level
            if only is not None:
                self.trained.append({one for one in ids if one not in self.worth})
                nats = np.where(np.isin(np.arange(items), only), nats, np.nan)
            return Measured(nats, np.ones(items, np.bool_), sum(map(len, rows)), 0.4)

        return train
