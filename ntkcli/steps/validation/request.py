"""What a validation is asked for, looked up and checked: everything but the training. Loads no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import Design as DesignName
from ntkcli.choices import LossPer, Scorer, checked
from ntkcli.data import Row
from ntkcli.data.raw_text import refuse_other_schema
from ntkcli.errors import UsageError
from ntkcli.identity import ModelIdentity
from ntkcli.seeds import check_seeds
from ntkcli.steps.evaluation.items import Items
from ntkcli.steps.shared.model_settings import run_parent
from ntkcli.steps.shared.row_sets import RowSet, resolve_rows
from ntkcli.steps.shared.settings import ModelUse, Reading, refuse_left, take
from ntkcli.steps.shared.stores import open_store, require_spec
from ntkcli.steps.splits.split import VERSION as SPLIT_VERSION
from ntkcli.steps.splits.split import folds_of
from ntkcli.steps.training.rows import MOST_TIMES
from ntkcli.steps.training.settings import InitAdapter, TrainingSettings, resolve_init
from ntkcli.steps.validation import inputs
from ntkcli.steps.validation.plan import (
    Design,
    Pool,
    check_subsets,
    default_rows,
    make_runs,
    parse_bins,
)  # fmt: skip

VERSION = 1
"""Of the validation, in every spec: goes up when the same inputs would get other runs or other values."""


@dataclass(frozen=True, slots=True)
class ValidationSettings:
    """The options of `ntksel validate`; `ntkcli.steps.validation.validate.validate` says what they mean."""

    name: str
    score: Sequence[str]
    domain: str
    use: ModelUse
    reading: Reading
    training: TrainingSettings
    task: Sequence[str] = ()
    folds: int | None = None
    by: str | None = None
    design: DesignName = DesignName.BOTH
    bins: str = "5"
    subsets: int = 40
    rows: int | None = None
    seeds: Sequence[int] = (0, 1, 2)
    domain_repeat: int | None = None
    oracle: str | None = None
    init_adapter: str | None = None

    @classmethod
    def of(cls, **given: Any) -> Self:
        """The settings that these options make, each by its own name. The loss is a mean over rows, weights are
        averaged where no rows are held out: both make seeds differ less. Held out are rows of the domain."""
        given = {"loss_per": LossPer.ROW, **given}
        if given.get("average_weights") is None:
            given["average_weights"] = not given.get("hold_out")
        parts = {"use": take(ModelUse, given), "reading": take(Reading, given)}
        settings = take(cls, given, **parts, training=take(TrainingSettings, given))
        refuse_left(given)
        return settings


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """All that a validation is made of, checked, before a model is loaded.

    All of `domain_rows` can be used; `known` is what the store has of this validation. `folds`: the fold of each domain
    row, which are the items then; None where tasks are given.
    """

    stored: store.Store
    asked: ValidationSettings
    identity: ModelIdentity
    init: InitAdapter | None
    scored: inputs.Scored
    oracle: inputs.Oracle | None
    domain: RowSet
    domain_rows: list[Row]
    items: Items
    shares: list[float]
    design: Design
    domain_repeat: int
    spec: dict[str, Any]
    parents: dict[str, str]
    known: store.Artefact | None
    folds: NDArray[np.int64] | None = None

    @property
    def n_folds(self) -> int:
        """How many trainings make a run: one for each fold."""
        return 1 if self.folds is None else len(np.unique(self.folds))

    @property
    def name(self) -> str:
        """The validation's name."""
        return self.asked.name

    @property
    def settings(self) -> TrainingSettings:
        """How each run is trained."""
        return self.asked.training


def prepare(store_path: str | Path, asked: ValidationSettings) -> Request:
    """Everything looked up and checked as `validate` does it. Reads files, loads no weights, writes nothing.

    Raises:
        UsageError, DataError, SpecError: as `validate`.
    """
    store.check_name(asked.name, "--name")
    edges, subsets = _check_design(asked)
    asked.training.check()
    asked.use.encoder_spec()  # checks --text-as
    stored = open_store(store_path)
    scored = inputs.find_scores(stored, asked.score)
    identity = asked.use.resolve()
    asked = replace(asked, training=asked.training.for_model(identity))
    init = resolve_init(asked.init_adapter, asked.training, adapters=stored.path / "adapters", model=identity)
    how = asked.reading
    domain_set = resolve_rows(stored, asked.domain, option="--domain", columns=how.columns, split=how.split)
    domain_rows = inputs.read_domain(domain_set)
    if asked.folds is None:
        items, fold_of_row = inputs.load_items(stored, asked.task, columns=how.columns, split=how.split), None
    else:
        items = inputs.domain_items(domain_rows, domain_set.spec)
        fold_of_row = folds_of(domain_rows, asked.folds, by=asked.by)
    _refuse_other_schemas(asked, scored, domain_set, items)
    if asked.folds is None:
        inputs.refuse_overlap(items, domain_rows, what="--domain")
    right = inputs.find_oracle(stored, asked.oracle, scored)
    pool = inputs.pool_of(scored, *_nothing_known(scored), right)
    n = asked.rows or default_rows(pool, edges)
    trained = len(domain_rows) if asked.folds is None else round(len(domain_rows) * (asked.folds - 1) / asked.folds)
    repeat = _repeat(asked.domain_repeat, n, trained)
    design = Design(edges, subsets, n, tuple(asked.seeds))
    make_runs(pool, design, scored.names)  # refuses what is too small
    known = stored.find(f"validations/{asked.name}")
    spec = {
        **_spec(asked, init, identity, scored, domain_set, items, right),
        "bins": list(edges),
        "subsets": subsets,
        "rows": n,
        "domain_repeat": repeat,
        "dtype": asked.use.settle_dtype(known),
    }
    if asked.folds is not None:
        spec["folds"] = {"folds": asked.folds, "by": asked.by, "version": SPLIT_VERSION}
    if known is not None:
        require_spec(known, spec)
    parents = {**scored.parents, **domain_set.parents, **run_parent(stored, asked.init_adapter)}
    return Request(
        stored, asked, identity, init, scored, right, domain_set, domain_rows, items, inputs.shares_of(items),
        design, repeat, spec, parents, known, fold_of_row,
    )  # fmt: skip


def _refuse_other_schemas(asked: ValidationSettings, scored: inputs.Scored, domain: RowSet, items: Items) -> None:
    """DataError if texts are to be raw, and the domain, the pool or a task scored by its loss has other rows."""
    text_as = asked.use.text_as
    refuse_other_schema(domain.file.schema.name, text_as, f"--domain {asked.domain}")
    refuse_other_schema(str(scored.dataset.spec["schema"]), text_as, f"the pool {scored.dataset.name}")
    for one in items.tasks:
        if one.scorer == Scorer.LOSS:
            refuse_other_schema(one.schema, text_as, f"--task {one.name}")


def _spec(
    asked: ValidationSettings, init: InitAdapter | None, identity: ModelIdentity, scored: inputs.Scored,
    domain_set: RowSet, items: Items, right: inputs.Oracle | None,
) -> dict[str, Any]:  # fmt: skip
    """The spec without what the pool's size decides."""
    training = training_spec(asked.training, init)
    return {
        **{key: value for key, value in training.items() if key not in ("seed", "version")},
        "version": {"validation": VERSION, "training": training["version"]},
        "model": identity.spec,
        "encoder": asked.use.encoder_spec(),
        "data": scored.dataset.spec["digest"],
        "score": [one.fingerprint for one in scored.artefacts],
        "domain": domain_set.spec,
        "tasks": [one.digest for one in items.tasks],
        "scorers": items.scorers,
        "seeds": list(asked.seeds),
        "oracle": None if right is None else right.spec,
    }


def training_spec(settings: TrainingSettings, init: InitAdapter | None) -> dict[str, Any]:
    """The spec of a run's training: rows are held out of the domain's, the first of its sets."""
    return settings.spec(init) | ({"hold_out_of": 0} if settings.hold_out else {})


def _check_design(asked: ValidationSettings) -> tuple[tuple[float, ...], int]:
    """The bins' edges and the number of subsets, () and 0 where the design has none."""
    design = checked(DesignName, asked.design, "--design")
    check_seeds(asked.seeds)
    if asked.rows is not None and asked.rows < 1:
        raise UsageError(f"--rows {asked.rows}: each run takes rows of the pool.", "Give 1 or more.")
    if design != DesignName.BINS:
        check_subsets(asked.subsets)
    edges = parse_bins(asked.bins) if design != DesignName.SUBSETS else ()
    return edges, asked.subsets if design != DesignName.BINS else 0


def _repeat(given: int | None, n: int, domain_rows: int) -> int:
    """How often a run holds each domain row: by default so that domain and pool are seen about equally often."""
    repeat = max(1, min(MOST_TIMES, round(n / max(1, domain_rows)))) if given is None else given
    if not 1 <= repeat <= MOST_TIMES:
        raise UsageError(f"--domain-repeat {repeat}: expected 1 to {MOST_TIMES}.", "Give a number in that range.")
    return repeat


def pool_without_tokens(request: Request) -> Pool:
    """The rows that may be drawn, before they are counted: all alike long."""
    return inputs.pool_of(request.scored, *_nothing_known(request.scored), request.oracle)


def _nothing_known(scored: inputs.Scored) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    return np.ones(scored.dataset.n, dtype=np.int64), np.ones(scored.dataset.n, dtype=np.bool_)
