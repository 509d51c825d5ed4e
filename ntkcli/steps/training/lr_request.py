"""What a sweep of learning rates is made of, looked up and checked before a model is loaded."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import store
from ntkcli.errors import UsageError
from ntkcli.identity import ModelIdentity
from ntkcli.seeds import check_seeds
from ntkcli.steps.shared.model_settings import run_parent
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training.finetune import finetune
from ntkcli.steps.training.model_card import command_words
from ntkcli.steps.training.request import TrainingRequest
from ntkcli.steps.training.rows import TrainingSet
from ntkcli.steps.training.settings import InitAdapter, TrainingSettings, resolve_init

VERSION = 1
"""Of the sweep, in its spec: goes up when the same settings would give other losses."""
RATES = (1e-4, 2e-4, 3.5e-4, 6e-4, 1e-3, 1.8e-3, 3e-3)
"""About equal steps in the logarithm, from below the default of large models (2.9e-4 for 8B parameters) to where LoRA
begins to diverge. docs/results.md: at 4e-4 most short runs on 32 rows learnt nothing, at 1e-3 all did."""
TRIAL_STEPS = 100
"""Most steps of a trial: those in which the runs of docs/results.md had learnt their task."""
HELD_OUT, HELD_OUT_ROWS = 0.2, 200
"""Share of the first set to judge by, and most rows: with more, measuring would cost as much as training."""
LEFT_OUT = ("lr", "seed", "version", "hold_out", "patience", "checkpoint_steps")
"""Of a training's spec: what a sweep varies, or has no use for."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep, looked up and checked: what to train on and how; `asked` is a trial, its rate still to come."""

    stored: store.Store
    asked: TrainingRequest
    identity: ModelIdentity
    init: InitAdapter | None
    spec: dict[str, Any]
    sets: Sequence[TrainingSet]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    parents: Mapping[str, str]
    command: Sequence[str]

    @property
    def name(self) -> str:
        """The sweep's name."""
        return self.asked.name

    @property
    def settings(self) -> TrainingSettings:
        """Of a trial, its rate still to come."""
        return self.asked.settings

    @property
    def trials(self) -> list[tuple[float, int]]:
        """Rate and seed of each part; the base model first, as rate 0."""
        return [(0.0, -1), *((rate, seed) for seed in self.seeds for rate in self.rates)]


def prepare(
    store_path: str | Path, request: TrainingRequest, words: Mapping[str, Any], *, rates: Sequence[float],
    lr_steps: int, seeds: Sequence[int],
) -> Sweep:  # fmt: skip
    """Everything looked up and checked as `find_rate` does it; `words` are its training's options. Loads no weights.

    Raises:
        UsageError, DataError: an option, a file or a row can't be used.
    """
    tried = check_rates(rates)
    if lr_steps < 1:
        raise UsageError(f"--lr-steps {lr_steps}: a trial has at least one step.", "Give 1 or more.")
    check_seeds(seeds)
    hold_out = request.settings.hold_out
    asked = trial_of(request, tried[0], seeds[0]).settled(store_path)
    replace(asked.settings, hold_out=hold_out, average_weights=False).check()
    store.check_name(asked.name, "--name")
    identity = asked.use.resolve()
    stored = open_store(store_path, create=True)
    init = resolve_init(asked.init_adapter, asked.settings, adapters=stored.path / "adapters", model=identity)
    sets, _ = asked.resolve_sets(stored)
    own = asked.settings.spec(init)
    spec = {
        **{key: value for key, value in own.items() if key not in LEFT_OUT},
        "version": {"sweep": VERSION, "training": own["version"]},
        "lr_rates": list(tried),
        "lr_steps": lr_steps,
        "seeds": list(seeds),
        "hold_out": hold_out or None,
        "model": identity.spec,
        "encoder": asked.use.encoder_spec(),
        "train": [one.spec for one in sets],
        "dtype": asked.use.settle_dtype(stored.find(f"sweeps/{asked.name}")),
    }
    parents = {key: value for one in sets for key, value in one.rows.parents.items()}
    parents |= run_parent(stored, asked.init_adapter)
    command = _command({**words, "store_path": store_path}, seeds)
    return Sweep(stored, asked, identity, init, spec, sets, tried, tuple(seeds), parents, command)


def trial_of(request: TrainingRequest, lr: float, seed: int) -> TrainingRequest:
    """The training of a trial: with no rows held out by it and no checkpoints."""
    settings = replace(request.settings, lr=lr, seed=seed, hold_out=0.0, patience=None, checkpoint_steps=None)
    return replace(request, settings=settings)


def _command(words: Mapping[str, Any], seeds: Sequence[int]) -> list[str]:
    """The training that the sweep finds the rate of."""
    signature = inspect.signature(finetune)
    defaults = {name: each.default for name, each in signature.parameters.items()}
    own = {key: value for key, value in words.items() if key != "hold_out"}
    command = command_words("finetune", defaults | own, signature)
    if len(seeds) > 1:
        command += ["--seeds", ",".join(map(str, seeds))]
    elif seeds[0]:
        command += ["--seed", str(seeds[0])]
    return command


def check_rates(rates: Sequence[float]) -> tuple[float, ...]:
    """The rates, ascending. UsageError unless they are at least two different positive numbers."""
    if len(set(rates)) < 2 or len(set(rates)) < len(rates) or not all(0 < rate < math.inf for rate in rates):
        shown = ",".join(f"{rate:g}" for rate in rates)
        raise UsageError(
            f"--lr-rates {shown}: expected two or more different positive numbers.", "As in 1e-4,3e-4,1e-3."
        )
    return tuple(sorted(float(rate) for rate in rates))
