"""What a sweep of learning rates shows: the losses, the recommended rate, and what speaks against it, in words."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

import numpy as np

import store
from ntkcli.statistics.rates import RateFindings, judge_rates
from ntkcli.steps.training.lr_request import Sweep


@dataclass(frozen=True, slots=True)
class Rate:
    """One rate: held-out loss (nats), its difference from the lowest with a 95% interval, mean loss of the last steps.

    Losses are means over the seeds; null where a trial diverged.
    """

    lr: float
    held_out_loss: float
    difference: float
    low: float
    high: float
    last_loss: float
    diverged: int
    as_good: bool


@dataclass(frozen=True, slots=True)
class LrFindResult:
    """What the sweep found: each rate ascending, the recommended one (null if all diverged), the command with it."""

    artefact: str
    lr: float | None
    rates: tuple[Rate, ...]
    base_loss: float
    held_out: int
    rows: int
    skipped: int
    steps: int
    planned_steps: int
    sentences: tuple[str, ...]
    command: str
    digest: str


def result_of(artefact: store.Artefact, sweep: Sweep) -> LrFindResult:
    """The findings of a finished sweep."""
    n_seeds, n_rates = len(sweep.seeds), len(sweep.rates)
    nats = artefact.read("nats").astype(np.float64)
    last = artefact.read("last_loss")[1:].reshape(n_seeds, n_rates).mean(axis=0)
    tokens = np.array(artefact.attrs["held_out_tokens"], dtype=np.float64)
    weights = tokens if sweep.settings.loss_per == "token" else np.ones_like(tokens)
    trials = nats[1:].reshape(n_seeds, n_rates, -1).transpose(1, 0, 2)
    found = judge_rates(np.array(sweep.rates), trials, weights, nats[0])
    rates = tuple(
        Rate(one.rate, one.loss, one.difference, one.low, one.high, float(last[k]), one.diverged, as_good=one.as_good)
        for k, one in enumerate(found.rates)
    )
    lr = None if found.best is None else found.rates[found.best].rate
    return LrFindResult(
        artefact=artefact.name,
        lr=lr,
        rates=rates,
        base_loss=found.base_loss,
        held_out=artefact.attrs["held_out"],
        rows=artefact.attrs["rows"],
        skipped=artefact.attrs["skipped"],
        steps=int(artefact.read("steps").max()),
        planned_steps=artefact.attrs["planned_steps"],
        sentences=tuple(_sentences(found, artefact, n_seeds)),
        command=_command(sweep, lr),
        digest=artefact.digest(),
    )


def _command(sweep: Sweep, lr: float | None) -> str:
    return "" if lr is None else shlex.join([*sweep.command, "--lr", f"{lr:g}"])


def _sentences(found: RateFindings, artefact: store.Artefact, n_seeds: int) -> list[str]:
    """The recommendation, and what speaks against it."""
    rows = f"{artefact.attrs['held_out']} rows of {artefact.attrs['train'][0]}"
    if found.best is None:
        return ["Every trial diverged: try smaller rates with --lr-rates, or give --dtype float32."]
    best, n = found.rates[found.best], len(found.rates)
    below = f"{best.loss:.3f} nats (base model {found.base_loss:.3f})"
    said = [f"Take --lr {best.rate:g}: the lowest held-out loss, {below}, on {rows}."]
    if others := [f"{one.rate:g}" for one in found.rates if one.as_good and one is not best]:
        said.append(f"These rows don't separate it from {', '.join(others)} (95% interval of the difference holds 0).")
    if not found.learnt:
        said.append(
            "It is not clearly below the base model, so no learning is shown: give a larger --lr-steps, or more rows."
        )
    if found.best in (0, n - 1):
        side = "smallest" if found.best == 0 else "largest"
        said.append(
            f"It is the {side} rate tried: try {'smaller' if found.best == 0 else 'larger'} ones with --lr-rates."
        )
    if diverged := [one for one in found.rates if one.diverged]:
        counts = ", ".join(f"{one.rate:g} ({one.diverged} of {n_seeds})" for one in diverged)
        said.append(f"Diverged: {counts}.")
    steps, planned = int(artefact.read("steps").max()), artefact.attrs["planned_steps"]
    if steps < planned:
        said.append(f"A trial has {steps} steps and the run {planned}: the best rate of a longer run is often smaller.")
    return said
