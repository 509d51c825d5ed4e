"""What a validation is asked for, looked up and checked: everything but the training. Loads no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.choices import Design as DesignName
from ntkcli.choices import Dtype, LossPer, Schedule, checked
from ntkcli.data import Row
from ntkcli.errors import UsageError
from ntkcli.identity import ModelIdentity, resolve_model
from ntkcli.steps.evaluation.items import Items
from ntkcli.steps.shared.model_settings import encoder_spec, run_parent, settle_dtype
from ntkcli.steps.shared.row_sets import RowSet, resolve_rows
from ntkcli.steps.shared.stores import open_store, require_spec
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


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """All that a validation is made of, checked, before a model is loaded.

    All of `domain_rows` can be used; `known` is what the store has of this validation.
    """

    stored: store.Store
    name: str
    identity: ModelIdentity
    settings: TrainingSettings
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


def prepare(
    store_path: str | Path, *, score: Sequence[str], model: str, domain: str, task: Sequence[str], name: str,
    design: DesignName = DesignName.BOTH, bins: str = "5", subsets: int = 40, rows: int | None = None,
    seeds: Sequence[int] = (0, 1, 2), domain_repeat: int | None = None, oracle: str | None = None,
    epochs: int | None = None, max_tokens: int | None = None, lr: float = 2e-4, schedule: Schedule = Schedule.COSINE, warmup: float = 0.03,
    rank: int | None = None, alpha: float | None = None, target_modules: str | None = None,
    init_adapter: str | None = None, batch_size: int = 16, max_length: int = 1024, loss_per: LossPer = LossPer.ROW,
    average_weights: bool = True, dtype: Dtype = Dtype.AUTO, device: str = "auto",
    columns: Mapping[str, str] | None = None, split: str | None = None, thinking: bool | None = None,
    trust_remote_code: bool = False,
) -> Request:  # fmt: skip
    """Everything looked up and checked as `validate` does it. Reads files, loads no weights, writes nothing.

    Raises:
        UsageError, DataError, SpecError: as `validate`.
    """
    store.check_name(name, "--name")
    edges, subsets = _check_design(design, bins, subsets, rows, seeds)
    settings = TrainingSettings(
        epochs, max_tokens, lr, schedule, warmup, rank, alpha, target_modules, batch_size, 0, 0.0, None, None, loss_per,
        average_weights,
    )  # fmt: skip
    settings.check()
    stored = open_store(store_path)
    scored = inputs.find_scores(stored, score)
    identity = resolve_model(model, trust_remote_code=trust_remote_code)
    init = resolve_init(init_adapter, settings, adapters=stored.path / "adapters", model=identity)
    domain_set = resolve_rows(stored, domain, option="--domain", columns=columns, split=split)
    domain_rows = inputs.read_domain(domain_set)
    items = inputs.load_items(stored, task, columns=columns, split=split)
    inputs.refuse_overlap(items, domain_rows, what="--domain")
    right = inputs.find_oracle(stored, oracle, scored)
    pool = inputs.pool_of(scored, *_nothing_known(scored), right)
    n = rows or default_rows(pool, edges)
    repeat = _repeat(domain_repeat, n, len(domain_rows))
    asked = Design(edges, subsets, n, tuple(seeds))
    make_runs(pool, asked, scored.names)  # refuses what is too small
    known = stored.find(f"validations/{name}")
    training = {key: value for key, value in settings.spec(init).items() if key not in ("seed", "version")}
    spec = {
        **training,
        "version": {"validation": VERSION, "training": settings.spec(init)["version"]},
        "model": identity.spec,
        "encoder": encoder_spec(max_length, thinking),
        "data": scored.dataset.spec["digest"],
        "score": [one.fingerprint for one in scored.artefacts],
        "domain": domain_set.spec,
        "tasks": [one.digest for one in items.tasks],
        "scorers": items.scorers,
        "bins": list(edges),
        "subsets": asked.subsets,
        "rows": n,
        "seeds": list(seeds),
        "domain_repeat": repeat,
        "oracle": None if right is None else right.spec,
        "dtype": settle_dtype(dtype, device, known),
    }
    if known is not None:
        require_spec(known, spec)
    return Request(
        stored, name, identity, settings, init, scored, right, domain_set, domain_rows, items, inputs.shares_of(items),
        asked, repeat, spec, {**scored.parents, **domain_set.parents, **run_parent(stored, init_adapter)}, known,
    )  # fmt: skip


def _check_design(
    design: DesignName, bins: str, subsets: int, rows: int | None, seeds: Sequence[int]
) -> tuple[tuple[float, ...], int]:
    """The bins' edges and the number of subsets, () and 0 where the design has none."""
    checked(DesignName, design, "--design")
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UsageError(
            f"--seeds {','.join(map(str, seeds)) or '(none)'}: give different whole numbers, 0 or more.", "As in 0,1,2."
        )
    if rows is not None and rows < 1:
        raise UsageError(f"--rows {rows}: each run takes rows of the pool.", "Give 1 or more.")
    if design != DesignName.BINS:
        check_subsets(subsets)
    return parse_bins(bins) if design != DesignName.SUBSETS else (), subsets if design != DesignName.BINS else 0


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
