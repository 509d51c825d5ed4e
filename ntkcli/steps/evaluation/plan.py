"""What an evaluation is made of, looked up and checked before a model is loaded: model, items, runs, spec."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import store
from ntkcli.data import stdin
from ntkcli.errors import UsageError
from ntkcli.identity import (
    AdapterIdentity,
    ModelIdentity,
    end_of_text_spec,
    refuse_other_base,
    resolve_adapter,
)
from ntkcli.statistics import group_seeds
from ntkcli.steps.evaluation.items import Items, load_tasks
from ntkcli.steps.evaluation.scorers import ScorerSettings
from ntkcli.steps.evaluation.settings import EvaluationSettings
from ntkcli.steps.shared.datasets import kept_data
from ntkcli.steps.shared.model_settings import run_parent
from ntkcli.steps.shared.stores import is_store, open_store, require_spec

VERSION = 2
"""Of the evaluation, in every spec: goes up when the same items would get other values."""
BASE = "base"
"""The run that is the model without any adapter."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that an evaluation is made of, checked, before a model is loaded: a run's name → its adapter, None for base.

    `spec` is that of every run, but for its adapter; `known` are the runs of this eval that the store has. `stored` is
    None where there is no store yet and none was to be made.
    """

    stored: store.Store | None
    asked: EvaluationSettings
    identity: ModelIdentity
    items: Items
    settings: ScorerSettings
    adapters: dict[str, AdapterIdentity | None]
    parents: dict[str, dict[str, str]]
    spec: dict[str, Any]
    known: dict[str, store.Artefact]

    @property
    def name(self) -> str:
        """The evaluation's name."""
        return self.asked.name

    def run_spec(self, run: str) -> dict[str, Any]:
        """The spec of one run."""
        adapter = self.adapters[run]
        return {**self.spec, "adapter": adapter.spec if adapter else None}


def make_plan(store_path: str | Path, asked: EvaluationSettings, *, create: bool = False) -> Plan:
    """Everything looked up and checked, as `evaluate` does it; nothing is computed. Its errors are those of `evaluate`.

    `create`: make the store if there is none; else standard input is refused.
    """
    store.check_name(asked.name, "--name")
    if not asked.run or not asked.task:
        raise UsageError("There is nothing to evaluate.", "Give at least one --run and one --task.")
    if asked.by_harness:
        raise UsageError("--dry-run can't estimate tasks of lm_eval.", "Leave it out for these.")
    settings, how = asked.scoring.checked(), asked.reading
    identity = asked.use.resolve()
    if not create and stdin.STDIN in map(str, (*asked.task, *asked.retain)):
        raise UsageError("--dry-run keeps nothing, so what standard input gives would be lost.", "Give a file.")
    stored = open_store(store_path, create=create) if create or is_store(store_path) else None
    items = load_tasks(
        [str(kept_data(stored, path)) for path in asked.task],
        retain=[str(kept_data(stored, path)) for path in asked.retain],
        scorer=asked.scoring.scorer,
        columns=how.columns,
        split=how.split,
        on_error=how.on_error,
        text_as=asked.use.text_as,
    )
    adapters, parents = find_runs(stored, asked.run, identity)
    known = {} if stored is None else known_runs(stored, asked.name)
    spec = {
        "version": VERSION,
        "model": identity.spec,
        "encoder": asked.use.encoder_spec(),
        "tasks": [task.digest for task in items.tasks],
        **_with_end_of_text(settings.spec(items.scorers), identity, known.values()),
        "dtype": asked.use.settle_dtype(next(iter(known.values()), None)),
    }
    for artefact in known.values():  # one eval is one table: same base model, same items, same settings
        require_spec(artefact, {**spec, "adapter": artefact.spec["adapter"]})
    return Plan(stored, asked, identity, items, settings, adapters, parents, spec, known)


def known_runs(stored: store.Store, name: str) -> dict[str, store.Artefact]:
    """The runs of an eval that the store has, by name."""
    return {
        artefact.name.rpartition("/")[2]: artefact
        for artefact in stored.artefacts(store.Kind.EVAL)
        if artefact.name.startswith(f"evals/{name}/")
    }


def _with_end_of_text(
    scoring: dict[str, Any], identity: ModelIdentity, known: Iterable[store.Artefact]
) -> dict[str, Any]:
    """The scorers' part of a spec; where answers are written, with the tokens that end one.

    Evals that were begun before these stood in the spec go on without them.
    """
    if "generate" in scoring and all("eos_token_id" in one.spec.get("generate", {}) for one in known):
        scoring["generate"] |= end_of_text_spec(identity)
    return scoring


def check_baseline(plan: Plan, baseline: str | None) -> None:
    """UsageError, before anything is computed, if the baseline is not one of the arms."""
    require_baseline(list(plan.adapters), baseline)


def require_baseline(runs: Sequence[str], baseline: str | None) -> None:
    """UsageError if the baseline is not one of the arms that these runs make."""
    arms = group_seeds(runs)
    if baseline is not None and baseline not in arms:
        raise UsageError(
            f"--baseline {baseline} is not one of the runs evaluated here.", f"Give one of: {', '.join(arms)}."
        )


def find_runs(
    stored: store.Store | None, references: Sequence[str], identity: ModelIdentity
) -> tuple[dict[str, AdapterIdentity | None], dict[str, dict[str, str]]]:
    """Adapter and parents of each run by its name, an arm's seeds one by one; checked to be of this base model."""
    own = Path(os.devnull) if stored is None else stored.path / "adapters"
    adapters: dict[str, AdapterIdentity | None] = {}
    parents: dict[str, dict[str, str]] = {}
    for reference in (one for given in references for one in _seeds_of(stored, given)):
        name = _run_name(reference)
        if name in adapters:
            raise UsageError(
                f"--run {reference}: a run called {name!r} is given twice.",
                "Give each run once; folders need names of their own.",
            )
        adapters[name] = None
        if reference != BASE:
            adapter = resolve_adapter(reference, adapters=own, option="--run")
            refuse_other_base(adapter, identity)
            adapters[name] = adapter
        if stored is not None:  # refuses changed training rows
            parents[name] = run_parent(stored, None if reference == BASE else reference)
    return adapters, parents


def _seeds_of(stored: store.Store | None, reference: str) -> list[str]:
    """The run itself; for the name of an arm that is not a run, its seeds `NAME.s0`, `NAME.s1`, ... in order."""
    if stored is None or "/" in reference or reference == BASE or (stored.path / "adapters" / reference).is_dir():
        return [reference]
    seed = re.compile(rf"{re.escape(reference)}\.s(\d+)")
    runs = [artefact.name.partition("/")[2] for artefact in stored.artefacts(store.Kind.RUN)]
    found = sorted((int(match[1]), run) for run in runs if (match := seed.fullmatch(run)))
    return [run for _, run in found] or [reference]


def _run_name(reference: str) -> str:
    name = reference if reference == BASE else Path(reference).resolve().name if "/" in reference else reference
    return store.check_name(name, "--run")
