"""Does the kernel stay as it was while the model is fine-tuned, and does it go on ranking a pool alike?

One course of training at a constant learning rate, its adapter kept after some epochs; features of the same rows with
each. `start` is the course's own adapter before its first step (B = 0, so that half of the coordinates are dead),
`fresh` one that differs from it by the random A alone.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from kernel_features import stored_kernel

from ntkcli.engine.training.checkpoints import kept_steps
from ntkcli.statistics.kernels import FORMS, Floats, agreement, forms
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training.finetune import finetune


@dataclass(frozen=True, slots=True)
class Course:
    """One training of `epochs[-1]` epochs in the store, named after all of them, its adapters kept on its way."""

    store: Path
    name: str
    epochs: tuple[int, ...]
    steps_an_epoch: int

    def adapter(self, epoch: int) -> str:
        """What `--adapter` takes, after so many epochs; 0: before the first step."""
        return str(kept_steps(self.store / "adapters" / self.name)[epoch * self.steps_an_epoch])

    def loss(self, epoch: int) -> float:
        """Mean training loss of the steps of an epoch, counted from 1."""
        losses = open_store(self.store).get(f"runs/{self.name}").read("loss")
        return float(losses[(epoch - 1) * self.steps_an_epoch : epoch * self.steps_an_epoch].mean())


def train(course: Course, domain: Path, model: str, training: dict[str, Any]) -> None:
    """The course, or find it made."""
    how = {**training, "model": model, "train": [str(domain)], "schedule": "constant", "warmup": 0.0}
    steps = {"epochs": course.epochs[-1], "checkpoint_steps": course.steps_an_epoch}
    finetune(course.store, name=course.name, **how, **steps, keep_checkpoints=True)


def kernel(course: Course, sides: dict[str, Path], adapter: str | None, label: str, **how: Any) -> Floats:
    """The raw kernel matrix of the domain's rows and then the pool's at one point of the course."""
    feature = f"{course.name}-{label}-{how['probe']}"
    return stored_kernel(course.store, sides, feature, kind="ntk", adapter=adapter, **how)


def report(given: argparse.Namespace, domain: Path, pool: Path, training: dict[str, Any]) -> None:
    """Train, featurize, and print a table for each probe and reference."""
    epochs = tuple(sorted({int(text) for text in given.epochs.split(",")}))
    course = Course(
        store=given.folder / "store",
        name=f"claims-{given.task}-d{given.domain}-e{'-'.join(map(str, epochs))}",
        epochs=epochs,
        steps_an_epoch=math.ceil(given.domain / training["batch_size"]),
    )
    train(course, domain, given.model, training)
    sides = {f"claims-{given.task}-d{given.domain}": domain, f"claims-pool-{given.pool}": pool}
    rows = np.arange(given.domain + given.pool)
    print(
        f"{given.task}: {given.domain} domain and {given.pool} pool rows, p = {given.dim}, completion positions; "
        f"course of learning rate {training['lr']:g}, constant, rank {training['rank']}, batch {training['batch_size']}"
    )
    for probe in given.probe or ["sum"]:
        how = {"model": given.model, "max_length": training["max_length"], "dim": given.dim, "probe": probe}
        points = {"fresh": kernel(course, sides, None, "fresh", **how)}
        for epoch in (0, *epochs):
            label = "start" if epoch == 0 else f"epoch {epoch}"
            points[label] = kernel(course, sides, course.adapter(epoch), label.replace(" ", ""), **how)
        made = {label: forms(point, rows[given.domain :]) for label, point in points.items()}
        for reference in ("start", f"epoch {epochs[0]}"):
            print_table(course, probe, made, reference, domain=rows[: given.domain], pool=rows[given.domain :])


def print_table(
    course: Course,
    probe: str,
    made: dict[str, dict[str, Floats]],
    reference: str,
    *,
    domain: np.ndarray,
    pool: np.ndarray,
) -> None:
    """Every point of the course against one of them."""
    print(f"\nprobe {probe}, against {reference}; Spearman and top-20% overlap of the pool rows' scores")
    print(" " * 17 + "".join(f"{what:^30}" for what in ("cos_F", "Spearman", "top 20%")))
    print(f"{'adapter':9} {'loss':>6} " + " ".join(f"{form:>9}" for form in FORMS * 3))
    for label, point in made.items():
        found = [agreement(point[form], made[reference][form], domain=domain, pool=pool) for form in FORMS]
        cells = [value for what in ("cos_f", "spearman", "overlap") for value in (getattr(a, what) for a in found)]
        loss = f"{course.loss(int(label[6:])):6.3f}" if label.startswith("epoch") else " " * 6
        print(f"{label:9} {loss} " + " ".join(f"{cell:9.4f}" for cell in cells))
