"""What a sweep of learning rates is made of, looked up and checked before a model is loaded."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import store
from ntkcli.data.files import OnError
from ntkcli.data.raw_text import CHAT, check_text_as
from ntkcli.errors import UsageError
from ntkcli.identity import ModelIdentity, resolve_model
from ntkcli.steps.shared.model_settings import encoder_spec, run_parent, settle_dtype
from ntkcli.steps.shared.stores import open_store
from ntkcli.steps.training.finetune import budgets, finetune
from ntkcli.steps.training.model_card import command_words
from ntkcli.steps.training.rows import TrainingSet, resolve_train
from ntkcli.steps.training.settings import InitAdapter, TrainingSettings, resolve_init

VERSION = 1
"""Of the sweep, in its spec: goes up when the same settings would give other losses."""
RATES = (1e-4, 2e-4, 3.5e-4, 6e-4, 1e-3, 1.8e-3, 3e-3)
"""From half of finetune's default to where LoRA begins to diverge, equal steps in the logarithm, the default among
them. docs/results.md: at the default most short runs on 32 rows learnt nothing, at 1e-3 all did."""
TRIAL_STEPS = 100
"""Most steps of a trial: those in which the runs of docs/results.md had learnt their task."""
HELD_OUT, HELD_OUT_ROWS = 0.2, 200
"""Share of the first set to judge by, and most rows: with more, measuring would cost as much as training."""
LEFT_OUT = ("lr", "seed", "version", "hold_out", "patience", "checkpoint_steps")
"""Of a training's spec: what a sweep varies, or has no use for."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep, looked up and checked: what to train on and how; `settings` are of a trial, its rate still to come."""

    stored: store.Store
    name: str
    identity: ModelIdentity
    init: InitAdapter | None
    settings: TrainingSettings
    spec: dict[str, Any]
    sets: Sequence[TrainingSet]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    parents: Mapping[str, str]
    command: Sequence[str]

    @property
    def trials(self) -> list[tuple[float, int]]:
        """Rate and seed of each part; the base model first, as rate 0."""
        return [(0.0, -1), *((rate, seed) for seed in self.seeds for rate in self.rates)]


def prepare(
    store_path: str | Path, *, model: str, train: Sequence[str], name: str, rates: Sequence[float], lr_steps: int,
    seeds: Sequence[int], hold_out: float, device: str, on_error: OnError, epochs: int | None = None,
    max_tokens: int | None = None, match_tokens: str | None = None, max_steps: int | None = None,
    match_steps: str | None = None, schedule: str = "cosine", warmup: float = 0.03, rank: int | None = None,
    alpha: float | None = None, target_modules: str | None = None, init_adapter: str | None = None,
    batch_size: int = 16, max_length: int = 1024, loss_per: str = "token", average_weights: bool = False,
    dtype: str = "auto", columns: Mapping[str, str] | None = None, split: str | None = None,
    data: Sequence[str] = (), thinking: bool | None = None, text_as: str = CHAT, pack: bool = False,
    trust_remote_code: bool = False,
    batch_tokens: int | None = None, gradient_checkpointing: bool = False,
) -> Sweep:  # fmt: skip
    """Everything looked up and checked as `find_rate` does it. Loads no weights.

    Raises:
        UsageError, DataError: an option, a file or a row can't be used.
    """
    words = {key: value for key, value in locals().items() if key not in ("rates", "lr_steps", "seeds", "hold_out")}
    tried = check_rates(rates)
    if lr_steps < 1:
        raise UsageError(f"--lr-steps {lr_steps}: a trial has at least one step.", "Give 1 or more.")
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UsageError(f"--seeds {','.join(map(str, seeds))}: give different whole numbers, 0 or more.")
    budget_tokens, budget_steps = budgets(
        store_path, epochs=epochs, max_tokens=max_tokens, match_tokens=match_tokens, max_steps=max_steps,
        match_steps=match_steps,
    )  # fmt: skip
    settings = TrainingSettings(
        epochs, budget_tokens, tried[0], schedule, warmup, rank, alpha, target_modules, batch_size, seeds[0], 0.0, None,
        None, loss_per, average_weights, budget_steps, pack,
    )  # fmt: skip
    replace(settings, hold_out=hold_out, average_weights=False).check()
    settings.check()
    check_text_as(text_as, thinking)
    store.check_name(name, "--name")
    identity = resolve_model(model, trust_remote_code=trust_remote_code)
    stored = open_store(store_path, create=True)
    init = resolve_init(init_adapter, settings, adapters=stored.path / "adapters", model=identity)
    sets = resolve_train(stored, train, columns=columns, split=split, on_error=on_error, data=data, text_as=text_as)
    own = settings.spec(init)
    spec = {
        **{key: value for key, value in own.items() if key not in LEFT_OUT},
        "version": {"sweep": VERSION, "training": own["version"]},
        "lr_rates": list(tried),
        "lr_steps": lr_steps,
        "seeds": list(seeds),
        "hold_out": hold_out or None,
        "model": identity.spec,
        "encoder": encoder_spec(max_length, thinking, text_as),
        "train": [one.spec for one in sets],
        "dtype": settle_dtype(dtype, device, stored.find(f"sweeps/{name}")),
    }
    parents = {key: value for one in sets for key, value in one.rows.parents.items()}
    command = command_words("finetune", _defaults() | words, inspect.signature(finetune))
    if len(seeds) > 1:
        command += ["--seeds", ",".join(map(str, seeds))]
    elif seeds[0]:
        command += ["--seed", str(seeds[0])]
    return Sweep(
        stored, name, identity, init, settings, spec, sets, tried, tuple(seeds),
        {**parents, **run_parent(stored, init_adapter)}, command,
    )  # fmt: skip


def check_rates(rates: Sequence[float]) -> tuple[float, ...]:
    """The rates, ascending. UsageError unless they are at least two different positive numbers."""
    if len(set(rates)) < 2 or len(set(rates)) < len(rates) or not all(0 < rate < math.inf for rate in rates):
        shown = ",".join(f"{rate:g}" for rate in rates)
        raise UsageError(
            f"--lr-rates {shown}: expected two or more different positive numbers.", "As in 1e-4,3e-4,1e-3."
        )
    return tuple(sorted(float(rate) for rate in rates))


def _defaults() -> dict[str, Any]:
    return {name: each.default for name, each in inspect.signature(finetune).parameters.items()}
