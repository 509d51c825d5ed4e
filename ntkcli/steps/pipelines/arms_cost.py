"""What a comparison would take, and what it could show, without loading weights: trainings, tokens, time, power."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np

import store
from ntkcli.choices import OnError
from ntkcli.data import DataFile, Encoder
from ntkcli.data.raw_text import CHAT, RAW
from ntkcli.data.references import split_name, split_weight
from ntkcli.identity import ModelIdentity, resolve_model
from ntkcli.statistics import group_seeds
from ntkcli.statistics.learning import choice_nats
from ntkcli.statistics.validation import detectable_between, spread_between_seeds
from ntkcli.steps.evaluation.item_tokens import encode_item
from ntkcli.steps.evaluation.items import Items, load_tasks
from ntkcli.steps.pipelines.arms_plan import Plan
from ntkcli.steps.pipelines.arms_report import is_local
from ntkcli.steps.pipelines.recipe import Step
from ntkcli.steps.shared.cost import OPERATIONS as FEATURES
from ntkcli.steps.shared.cost import SAMPLE_ROWS, weight_size
from ntkcli.steps.shared.model_settings import count_settings, encoder_spec, make_encoder
from ntkcli.steps.shared.stores import is_store, open_store
from ntkcli.steps.shared.token_counts import count
from ntkcli.steps.training.dry_run import FORWARD, OPERATIONS

WRITTEN: Final = 128
"""Tokens that an answer may have which `eval` has the model write."""


@dataclass(frozen=True, slots=True)
class ArmsPower:
    """The smallest difference from the baseline that these sizes show in four cases of five, and from what.

    `nats` of log loss and `points` of the measure (a share), None: not known. The spreads are standard deviations of a
    run's value between seeds, over `runs` of the store on these items.
    """

    seeds: int
    nats: float | None
    points: float | None
    spread_nats: float | None
    spread_points: float | None
    runs: int


@dataclass(frozen=True, slots=True)
class ArmsEstimate:
    """The cost of what is not done yet; tokens are extrapolated from samples of rows, seconds from a product.

    `uncounted` are tasks whose items are not on this machine.
    """

    trainings: int
    trainings_done: int
    train_tokens: int
    feature_tokens: int
    test_tokens: int
    seconds: float
    uncounted: tuple[str, ...]
    power: ArmsPower
    sentences: tuple[str, ...]


def estimate_arms(
    plan: Plan, steps: Sequence[Step], *, baseline: str, folds: Sequence[Plan] = (), domain_split: str | None = None,
    pool_split: str | None = None, device: str = "auto",
) -> ArmsEstimate:  # fmt: skip
    """What `steps` of the plan (of all its `folds`) would take, without those that the store has finished.

    Raises:
        UsageError: the model or a file is not there.
    """
    from ntkcli.engine.models.loading import load_tokenizer
    from ntkcli.engine.models.speed import operations_per_second

    how = plan.common
    identity = resolve_model(plan.model, trust_remote_code=bool(how.get("trust-remote-code")))
    thinking = None if how.get("thinking") is None else how["thinking"] == "on"
    read, tested = (
        encoder_spec(how.get("max-length", 1024), thinking, str(options.get("text-as", CHAT)))
        for options in (plan.rows_as, plan.evaluation)
    )
    encoder = make_encoder(load_tokenizer(identity), tested)
    counted = _Counted(identity, encoder.max_length, count_settings(read))
    stored = open_store(plan.store) if is_store(plan.store) else None
    share = (len(folds) - 1) / len(folds) if folds else 1.0
    sizes = _Sizes(
        domain=share * counted.tokens(plan.domain, domain_split),
        pool=counted.tokens(plan.pool, pool_split) if plan.needs_pool else 0.0,
        pool_rows=counted.rows(plan.pool, pool_split) if plan.needs_pool else 0,
    )
    items, uncounted = _items(plan, folds, domain_split)
    per_run = _test_tokens(items, encoder) / (len(folds) if folds else 1)
    done = _Done(stored)
    cost = _Cost(sizes, done, {each.domain for each in folds or [plan]}, plan.epochs)
    for step in steps:
        cost.add(step, per_run)
    parameters, _ = weight_size(identity)
    operations = OPERATIONS * cost.train + FORWARD * cost.test + cost.feature_operations
    power = _power(stored, plan, identity, items, baseline, folds)
    return ArmsEstimate(
        trainings=cost.trainings,
        trainings_done=cost.trainings_done,
        train_tokens=round(cost.train),
        feature_tokens=round(cost.features),
        test_tokens=round(cost.test),
        seconds=operations * parameters / operations_per_second(device),
        uncounted=uncounted,
        power=power,
        sentences=tuple(_sentences(power, baseline)),
    )


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Tokens of the domain's rows that are trained on, of all rows of the pool, and how many rows that has."""

    domain: float
    pool: float
    pool_rows: int

    def of_pool(self, rows: float) -> float:
        """Tokens of so many rows of the pool."""
        return rows * self.pool / max(1, self.pool_rows)


class _Done:
    """What the store has finished."""

    def __init__(self, stored: store.Store | None) -> None:
        self._stored = stored

    def has(self, name: str) -> bool:
        """Whether this artefact is there, whole."""
        found = None if self._stored is None else self._stored.find(name)
        return found is not None and found.complete


class _Cost:
    """Adds up steps in their order: tokens trained on, featurized and evaluated."""

    def __init__(self, sizes: _Sizes, done: _Done, domains: set[str], epochs: int) -> None:
        self._sizes, self._done, self._domains, self._epochs = sizes, done, domains, epochs
        self._selected: dict[str, float] = {}
        self._trained: dict[str, float] = {}
        self.trainings = self.trainings_done = 0
        self.train = self.features = self.feature_operations = self.test = 0.0

    def add(self, step: Step, per_run: float) -> None:
        """Count one step; `per_run`: tokens of the test items."""
        values = step.values
        if step.verb == "select":
            self._selected[step.name] = self._budget(values)
        elif step.verb == "finetune":
            self._train(step)
        elif step.verb == "featurize":
            self._featurize(values)
        elif step.verb == "eval":
            self.test += per_run * sum(not self._done.has(f"evals/{step.name}/{run}") for run in values["run"])

    def _budget(self, values: Mapping[str, Any]) -> float:
        if "token-budget" in values:
            return float(values["token-budget"])
        if "match-tokens" in values:
            return self._selected[values["match-tokens"]]
        return self._sizes.of_pool(values["n"])

    def _train(self, step: Step) -> None:
        values = step.values
        tokens = 0.0
        for reference, times in map(split_weight, values["train"]):
            own = self._sizes.domain if reference in self._domains else self._selected[reference]
            tokens += own * float(times or 1)
        tokens *= values.get("epochs", self._epochs)
        for option in ("match-steps", "match-tokens"):
            if option in values:
                tokens = self._trained[values[option]]
        runs = [f"{step.name}.s{seed}" for seed in values["seeds"]] if "seeds" in values else [step.name]
        for run in runs:
            self._trained[run] = tokens
            self.trainings += 1
            if self._done.has(f"runs/{run}"):
                self.trainings_done += 1
            else:
                self.train += tokens

    def _featurize(self, values: Mapping[str, Any]) -> None:
        if self._done.has(f"features/{values['name']}/{values.get('feature', values['kind'])}"):
            return
        tokens = self._sizes.domain if values["data"] in self._domains else self._sizes.pool
        tokens = self._selected[values["rows"]] if "rows" in values else tokens
        forward, backward = FEATURES[values["kind"]]
        self.features += tokens
        self.feature_operations += tokens * (forward + values.get("probes", 1) * backward)


@dataclass(frozen=True, slots=True)
class _Counted:
    """Counts rows and tokens of files."""

    identity: ModelIdentity
    max_length: int
    settings: Mapping[str, Any]

    def rows(self, reference: str, split: str | None) -> int:
        """All rows of a file."""
        return sum(1 for _ in DataFile(reference, split=split).records())

    def tokens(self, reference: str, split: str | None) -> float:
        """Tokens of all rows of a file, by the mean of its first ones."""
        some = islice(DataFile(reference, split=split).rows(), SAMPLE_ROWS)
        found = count(some, self.identity, **self.settings)
        most = None if self.settings["text_as"] == RAW else self.max_length  # a long raw text is read in pieces
        lengths = np.clip(found.length[found.good()], 0, most)
        return float(lengths.mean()) * self.rows(reference, split) if len(lengths) else 0.0


def _items(plan: Plan, folds: Sequence[Plan], domain_split: str | None) -> tuple[Items | None, tuple[str, ...]]:
    """The items of the tasks that are on this machine, of folds the domain's rows; and the tasks that are not."""
    how: dict[str, Any] = {"on_error": OnError.SKIP, "text_as": plan.items_as}
    if folds:
        return load_tasks([f"domain={plan.domain}"], split=domain_split, **how), ()
    retained = [str(task) for task in plan.evaluation.get("retain", ())]
    there = [task for task in plan.tasks if is_local(split_name(task)[1])]
    lacking = tuple(task for task in (*plan.tasks, *retained) if not is_local(split_name(task)[1]))
    kept = [task for task in retained if task not in lacking]
    return (load_tasks(there, retain=kept, **how) if there else None), lacking


def _test_tokens(items: Items | None, encoder: Encoder) -> float:
    """Tokens of all items, their choices or written answers counted, by a sample."""
    if items is None:
        return 0.0
    some = np.unique(np.linspace(0, len(items.rows) - 1, min(SAMPLE_ROWS, len(items.rows))).astype(np.int64))
    lengths = []
    for index in some.tolist():
        _, encoded = encode_item(items, index, encoder)
        written = WRITTEN if items.scorer(index) == "generate" else 0
        lengths.append(sum(map(len, encoded)) + written)
    return float(np.mean(lengths)) * len(items.rows)


def _power(
    stored: store.Store | None, plan: Plan, identity: ModelIdentity, items: Items | None, baseline: str,
    folds: Sequence[Plan],
) -> ArmsPower:  # fmt: skip
    """From every eval and validation of this model in the store on these items, or of these folds."""
    nats, points, runs = [], [], 0
    if stored is not None and items is not None:
        for values, losses in _seeds_of_store(stored, identity, items, folds):
            points.append(values)
            nats.append(losses)
            runs += sum(map(len, values or losses))
    spreads = [_pooled(each) for each in (nats, points)]
    arm = next((run for run in group_seeds(plan.runs()) if run not in ("base", baseline)), baseline)
    seeds = group_seeds(plan.runs())
    shown = [
        None
        if spread is None
        else detectable_between(spread, len(seeds[arm]), len(seeds[baseline])) / math.sqrt(max(1, len(folds)))
        for spread in spreads
    ]
    return ArmsPower(len(plan.seeds), shown[0], shown[1], spreads[0], spreads[1], runs if any(spreads) else 0)


def _pooled(groups: Sequence[Sequence[Sequence[float]]]) -> float | None:
    """The standard deviation within groups of runs that differ in their seed alone, over all of them."""
    values = [list(own) for one in groups for own in one]
    conditions = np.repeat(np.arange(len(values)), [len(own) for own in values])
    flat = np.array([value for own in values for value in own], dtype=np.float64)
    found = spread_between_seeds(conditions.astype(np.int64), flat)
    return found if math.isfinite(found) else None


Groups = list[list[float]]


def _seeds_of_store(
    stored: store.Store, identity: ModelIdentity, items: Items, folds: Sequence[Plan]
) -> Iterator[tuple[Groups, Groups]]:
    """Of each eval and validation: the measures and the log losses of runs that differ in their seeds, by arm."""
    digests = [task.digest for task in items.tasks if not task.retained]
    names = {each.name for each in folds}
    by_eval: dict[str, dict[str, store.Artefact]] = {}
    for artefact in stored.artefacts(store.Kind.EVAL):
        name, _, run = artefact.name.removeprefix("evals/").partition("/")
        alike = name in names if folds else artefact.spec.get("tasks", [])[: len(digests)] == digests
        if alike and artefact.complete and artefact.spec.get("model") == identity.spec:
            by_eval.setdefault(name, {})[run] = artefact
    n_tasks = 1 if folds else len(digests)
    for runs in by_eval.values():
        several = [list(own.values()) for own in group_seeds(runs).values() if len(own) > 1]
        measured = [[_value(runs[run], n_tasks) for run in own] for own in several]
        values = [[value for value, _ in own if value is not None] for own in measured]
        losses = [[loss for _, loss in own if loss is not None] for own in measured]
        yield [own for own in values if own], [own for own in losses if own]
    for artefact in stored.artefacts(store.Kind.VALIDATION):
        same = artefact.spec.get("tasks") == digests and "fold" not in artefact.arrays
        if not folds and same and artefact.complete and artefact.spec.get("model") == identity.spec:
            yield [], _conditions(artefact)


def _value(artefact: store.Artefact, n_tasks: int) -> tuple[float | None, float | None]:
    """A run's share of right items and its log loss, over the items of the first tasks; None where it has none."""
    own = artefact.read("task") < n_tasks
    value = float(artefact.read("correct")[own].mean()) if "correct" in artefact.arrays else None
    if "loglik" not in artefact.arrays:
        return value, None
    answer, loglik = artefact.read("answer")[own], artefact.read("loglik")[own]
    loss = float(choice_nats(loglik, answer).mean()) if (answer >= 0).all() else math.nan
    return value, loss if math.isfinite(loss) else None


def _conditions(artefact: store.Artefact) -> Groups:
    """The mean losses of a validation's runs that differ in their seeds, one list per condition."""
    keys = np.stack([artefact.read(name).astype(np.int64) for name in ("design", "score", "bin")], axis=1)
    losses = artefact.read("nats").astype(np.float64).mean(axis=1)
    found = []
    for key in np.unique(keys, axis=0):
        own = losses[(keys == key).all(axis=1)]
        names = artefact.attrs["designs"]
        if names[key[0]] in ("domain", "random", "oracle", "bin") and len(own) > 1:
            found.append(own[np.isfinite(own)].tolist())
    return found


def _sentences(power: ArmsPower, baseline: str) -> Iterator[str]:
    if power.nats is None and power.points is None:
        yield (
            "How large a difference these sizes can show is not known yet: the store has no evaluated runs on these "
            "items that differ in their seeds alone."
        )
    else:
        known = ((power.nats, power.spread_nats, "{:.3f} nats"), (power.points, power.spread_points, "{:.1f} points"))
        shown, spreads = [], []
        for value, spread, form in known:
            scale = 100 if "points" in form else 1
            if value is not None and spread is not None:
                shown.append(form.format(scale * value))
                spreads.append(form.format(scale * spread))
        yield (
            f"These sizes show a difference from {baseline} of {' or '.join(shown)} or more in four cases of five; a "
            f"run's value has a standard deviation of {' or '.join(spreads)} between seeds, by {power.runs} runs of "
            "the store."
        )
    if power.seeds == 1:
        yield "One seed per arm says nothing about other seeds: three are the least that a claim should rest on."
