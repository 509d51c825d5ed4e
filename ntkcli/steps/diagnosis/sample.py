"""Rows drawn from a data set, encoded: what the diagnoses that run a model compute on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.data import Encoded, Encoder, Row, RowError
from ntkcli.errors import DataError
from ntkcli.identity import AdapterIdentity, ModelIdentity, resolve_adapter, resolve_model
from ntkcli.paths import home
from ntkcli.steps.diagnosis.findings import Cost
from ntkcli.steps.diagnosis.request import Request
from ntkcli.steps.shared.cost import weight_size
from ntkcli.steps.shared.row_sets import resolve_rows, rows_in_order

LAYERS = 4
OPERATIONS = {"embed": (2.0, 0.0), "ntk": (2.0, 2.3)}
"""Operations per parameter and token: of the forward, and of each backward."""


@dataclass(frozen=True, slots=True)
class Side:
    """Rows of a data set that can be used, encoded: drawn by a seed out of `total` usable ones, in the file's order.

    `skipped`: drawn rows that can't be encoded. `spec`: what decides which rows these are.
    """

    label: str
    rows: tuple[Row, ...]
    encoded: tuple[Encoded, ...]
    total: int
    skipped: int
    spec: dict[str, Any]


def draw_side(
    stored: store.Store | None, request: Request, *, option: str, reference: str, count: int | None, encoder: Encoder
) -> Side:
    """`count` rows of a data set, a selection or a file (None: all of them).

    Raises:
        DataError: a row can't be used and `on_error` is "fail"; or there is none that can.
    """
    found = resolve_rows(
        stored, reference, option=option, columns=request.columns, split=request.split, on_error=request.on_error
    )
    places = np.arange(len(found.status)) if found.rows is None else found.rows
    usable = places[found.status[places] < store.RowStatus.UNREADABLE]
    chosen = drawn(usable, count, seed=request.seed)
    rows: list[Row] = []
    encoded: list[Encoded] = []
    for row in rows_in_order(found.file, chosen, found.status):
        if not isinstance(row, Row):
            continue
        try:
            encoded.append(encoder.encode(row))
        except RowError as error:
            if request.on_error == "fail":
                raise DataError(
                    f"{row.place}: {error.reason}.",
                    "Fix the row, or give --on-error skip to leave such rows out.",
                ) from error
            continue
        rows.append(row)
    if not rows:
        raise DataError(f"{option} {reference} has no row that can be used.", "Give data that has some.")
    spec = {**found.spec, "rows": count, "seed": request.seed}
    return Side(found.label, tuple(rows), tuple(encoded), len(usable), len(chosen) - len(rows), spec)


def drawn(rows: NDArray[np.int64], count: int | None, *, seed: int) -> NDArray[np.int64]:
    """`count` of the rows by a seed, ascending; all where there are no more."""
    if count is None or count >= len(rows):
        return rows
    return np.sort(np.random.default_rng(seed % 2**64).choice(rows, size=count, replace=False))


@dataclass(frozen=True, slots=True)
class Setup:
    """The model and the adapter that are diagnosed, and the encoder of its rows."""

    model: ModelIdentity
    adapter: AdapterIdentity | None
    encoder: Encoder


def set_up(request: Request, *, model: str, max_length: int) -> Setup:
    """Resolve model and adapter, and load the tokenizer; no weights."""
    from ntkcli.engine.models.loading import load_tokenizer

    identity = resolve_model(model, trust_remote_code=request.trust_remote_code)
    adapter = (
        resolve_adapter(request.adapter, adapters=Path(home(request.store_path)) / "adapters")
        if request.adapter
        else None
    )
    length = request.max_length or max_length
    return Setup(identity, adapter, Encoder(load_tokenizer(identity), max_length=length, thinking=request.thinking))


def last_layers(setup: Setup) -> str:
    """The last four blocks, or all of fewer: the backward stops there, which takes a seventh of 30 blocks."""
    return f"last:{min(LAYERS, _blocks(setup))}"


def _blocks(setup: Setup) -> int:
    """How many blocks the model has."""
    from ntkcli.engine.models.loading import model_config

    return int(model_config(setup.model).get_text_config().num_hidden_layers)


def _share_below(setup: Setup, layers: str) -> float:
    """The share of the blocks that a backward to the lowest of the `layers` goes through; 1 if they can't be read."""
    blocks = _blocks(setup)
    try:
        last = (
            int(layers[5:])
            if layers.startswith("last:")
            else blocks - min(int(part.split("-")[0]) for part in layers.split(","))
        )
    except ValueError:
        return 1.0
    return max(0.0, min(1.0, last / blocks))


def cost_of(
    name: str, setup: Setup, sides: tuple[Side, ...], *, device: str, passes: int, times: int = 1, layers: str = "all"
) -> Cost:
    """The cost of computing all rows of the sides `times` times, with `passes` backward passes each, down to the lowest
    of these `layers`.
    """
    from ntkcli.engine.models.limits import refuse_too_long
    from ntkcli.engine.models.speed import operations_per_second

    longest, where = max((len(one), row.place) for side in sides for one, row in zip(side.encoded, side.rows,
                                                                                     strict=True))  # fmt: skip
    refuse_too_long(setup.model, longest, where)
    tokens = times * sum(len(one) for side in sides for one in side.encoded)
    parameters, _ = weight_size(setup.model)
    forward, backward = OPERATIONS["ntk" if passes else "embed"]
    backward *= passes * _share_below(setup, layers)
    seconds = tokens * parameters * (forward + backward) / operations_per_second(device)
    return Cost(name, times * sum(len(side.rows) for side in sides), tokens, passes, seconds)


def draw_sides(
    stored: store.Store | None, request: Request, *, rows: int, domain_rows: int, max_length: int
) -> tuple[Setup, tuple[Side, Side]]:
    """The model's setup; and rows drawn from the domain and the pool, as many as asked for or else by default."""
    setup = set_up(request, model=str(request.model), max_length=max_length)
    domain = draw_side(
        stored, request, option="--domain", reference=str(request.domain), count=request.domain_rows or domain_rows,
        encoder=setup.encoder,
    )  # fmt: skip
    pool = draw_side(
        stored, request, option="--pool", reference=str(request.pool), count=request.rows or rows, encoder=setup.encoder
    )
    return setup, (domain, pool)
