"""One training and its test, as a line of figures: what the map and the study have in common."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from environment import describe
from table import log_loss

from ntkcli.steps.evaluation.evaluate import evaluate
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training.finetune import finetune

MAX_LENGTH: Final = 256
"""Tokens of a row; nothing here is as long."""


@dataclass(frozen=True, slots=True)
class Training:
    """How every run is trained and tested, but for its rows."""

    lr: float = 1e-3
    batch_size: int = 8
    loss_per: str = "row"
    average_weights: bool = True
    dtype: str = "bfloat16"
    """Of the frozen weights and of what is computed; adapters are float32."""
    rows: int = 150
    """Rows taken from the pool in every arm that takes some."""
    passes: int = 2
    """Over the rows taken from the pool."""
    visits: int = 128
    """How often rows of the domain are trained on in every arm, all together: 16 passes of 8 rows, 1 pass of 128."""
    items: int = 200
    """Test items."""


LONG: Final = Training()
SHORT: Final = Training(batch_size=4, rows=64, passes=1, visits=64, items=100)


def train_and_test(
    store: Path, name: str, train: Sequence[str], test: Path, *, training: Training, seed: int, model: str
) -> dict[str, Any]:
    """Train on `train` (references as in --train) for one epoch, test; what a line says of it, every item included."""
    began = time.time()
    shared: dict[str, Any] = {"model": model, "max_length": MAX_LENGTH, "dtype": training.dtype}
    how = {key: getattr(training, key) for key in ("lr", "batch_size", "loss_per", "average_weights")}
    trained = finetune(store, name=name, train=list(train), epochs=1, seed=seed, **how, **shared)
    found = {"steps": trained.steps, "tokens": trained.tokens, "last_loss": round(trained.last_loss, 4)}
    return {**found, **tested(store, name, test, training=training, model=model), "seconds": round(time.time() - began)}


def tested(store: Path, run: str, test: Path, *, training: Training, model: str) -> dict[str, Any]:
    """What a line says of a run's test, or of the model without training: `run` = "base"."""
    evaluate(store, run=[run], task=[test], name=test.stem, model=model, max_length=MAX_LENGTH, dtype=training.dtype)
    found = open_store(store).get(f"evals/{test.stem}/{run}")
    nats, correct = log_loss(found), found.read("correct").astype(int)
    return {
        "nats": round(float(nats.mean()), 4),
        "accuracy": round(float(correct.mean()), 4),
        "item_nats": [round(float(value), 3) for value in nats],
        "item_correct": "".join(map(str, correct)),
    }


def lines(figures: Path) -> list[dict[str, Any]]:
    """The lines of a file of figures; none if it is not there."""
    return [json.loads(line) for line in figures.read_text(encoding="utf-8").splitlines()] if figures.exists() else []


def append(figures: Path, line: dict[str, Any]) -> None:
    """Add a finished run to the figures, with its environment, and show it."""
    figures.parent.mkdir(parents=True, exist_ok=True)
    with figures.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**line, "environment": describe()}) + "\n")
    shown = ("name", "nats", "accuracy", "tokens", "seconds")
    print(" ".join(f"{key} {line[key]}" for key in shown if key in line), flush=True)


def item_values(line: dict[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Right or wrong, and log loss in nats, of every item: each (N,)."""
    return np.array([float(each) for each in line["item_correct"]]), np.array(line["item_nats"])
