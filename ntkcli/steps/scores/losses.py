"""Scores that need the losses that features hold (`featurize --losses`): `drop`, and `--residual` on a kernel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.errors import UsageError
from ntkcli.scoring.features import FeatureReader, Floats, Rows
from ntkcli.scoring.losses import drops, weighted
from ntkcli.steps.scores.inputs import covering_reader
from ntkcli.steps.scores.sorts import Request, ScorePlan, ScoresAndTies

VERSION = 1
"""Of these scores, in their specs: goes up when the same losses would give other scores."""


def plan_drop(request: Request) -> ScorePlan:
    """The plan of the method drop: the domain is in the adapter that the pool's features were made with.

    Raises:
        UsageError: the features hold no losses, or were made without an adapter.
        SpecError: they do not cover the rows.
    """
    dataset, on_block = request.dataset, request.progress.advance
    side = _with_losses(request, option="--method drop")
    if "loss_before" not in side.arrays:
        raise UsageError(
            f"--method drop compares losses before and after a warm-up, and {side.name} was made without an adapter.",
            "Run `ntksel featurize ... --losses --adapter RUN` under another --feature.",
        )
    reader = covering_reader(side, dataset=dataset, only=request.only, on_block=on_block)

    def compute() -> ScoresAndTies:
        found = np.full(dataset.n, np.nan)
        for part, rows, keep in _parts(reader):
            before, loss = (side.read(name, *side.part_bounds(part)) for name in ("loss_before", "loss"))
            found[rows[keep]] = drops(before[keep], loss[keep])
            on_block(len(rows))
        return found, None

    spec = {"pool": side.fingerprint, "drop": VERSION}
    return ScorePlan(spec, {side.name: side.fingerprint}, compute, total=lambda: side.n, measured=reader.measured)


def weigh_by_residual(request: Request, plan: ScorePlan) -> ScorePlan:
    """The plan of a method whose scores are kernel values, with each pool row's score times its residual.

    Raises:
        UsageError: the pool's features hold no losses; or the residual is in them already.
    """
    dataset = request.dataset
    side = _with_losses(request, option="--residual")
    if side.spec["kind"] == "loss" and request.method == "mean":
        raise UsageError(
            f"--residual: {side.name} are gradients of the loss, which the residual is in already; --method mean would "
            "count it twice.",
            "Leave --residual out, or give --method cosine or features of --kind ntk.",
        )
    reader = covering_reader(side, dataset=dataset, only=request.only, on_block=lambda _: None)

    def compute() -> ScoresAndTies:
        scores, ties = plan.compute()
        residual: Floats = np.full(dataset.n, np.nan, dtype=np.float32)
        for part, rows, keep in _parts(reader):
            residual[rows[keep]] = side.read("residual", *side.part_bounds(part))[keep]
        return weighted(scores, residual), ties

    return replace(plan, spec=plan.spec | {"residual": VERSION}, compute=compute)


def _with_losses(request: Request, *, option: str) -> store.Artefact:
    """The pool's features. UsageError if they hold no losses."""
    pool = request.dataset.name.partition("/")[2]
    side = request.stored.get(f"features/{pool}/{store.check_name(request.features[0], '--feature')}")
    request.stored.check_parents(side)
    if "residual" not in side.arrays:
        raise UsageError(
            f"{option} needs the rows' losses, and {side.name} holds none.",
            f"Run `ntksel featurize ... --name {pool} --losses` under another --feature, and give that.",
        )
    return side


def _parts(reader: FeatureReader) -> list[tuple[int, Rows, NDArray[np.bool_]]]:
    """Each part: its number, its rows as rows of the data set, and which of these are wanted and have values."""
    side = reader.artefact
    measured = reader.measured()
    every: Rows = side.read("row") if "row" in side.arrays else np.arange(side.n)
    bounds = [side.part_bounds(part) for part in range(side.n_parts)]
    return [(part, every[a:b], measured[every[a:b]]) for part, (a, b) in enumerate(bounds)]
