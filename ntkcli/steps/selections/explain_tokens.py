"""Which tokens of a row carry its score: the score split over them, computed with the model that made the features.

Only for scores that are linear in the row's feature at its own length (`ntkcli.scoring.linear`); then the parts add up
to the score, but for what the pool's mean takes away (`offset`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import store
from ntkcli.data import BadRow, RowError
from ntkcli.errors import DataError, UsageError
from ntkcli.progress import Progress, Silent, shown
from ntkcli.scoring.features import FeatureReader, Rows, Wide
from ntkcli.scoring.linear import METHODS, LinearScore, linear_scores
from ntkcli.scoring.whitening import whitener
from ntkcli.steps.scores.inputs import domain_groups, features_of, group_readers
from ntkcli.steps.scores.remake import Remade, gradient_settings, refuse_adam, remake
from ntkcli.steps.selections.explain import row_number
from ntkcli.steps.shared.datasets import data_file, moved_data
from ntkcli.steps.shared.fitting import alone
from ntkcli.steps.shared.release import frees_memory
from ntkcli.steps.shared.row_sets import rows_in_order
from ntkcli.steps.shared.stores import open_store

if TYPE_CHECKING:
    from ntkcli.data import Encoded


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a row: `value` is its part of the score, `share` that over the sum of all parts' magnitudes."""

    position: int
    id: int
    text: str
    supervised: bool
    value: float
    share: float


@dataclass(frozen=True, slots=True)
class TokenExplanation:
    """A row's score as the sum of its tokens' values and `offset`, up to rounding; `score` is the one in the store."""

    selection: str
    row: int
    row_id: str
    score_name: str
    method: str
    score: float
    offset: float
    tokens: tuple[Token, ...]


@frees_memory
def explain_tokens(
    store_path: str | Path,
    *,
    selection: str,
    row: str,
    device: str = "auto",
    data: Sequence[str] = (),
    progress: Progress | None = None,
) -> TokenExplanation:
    """Split the score of one row of the selection's pool over the tokens that the model saw of it.

    Arguments as for `explain`. Needs the model and, for gradients, one forward and one backward of the row per probe.

    Raises:
        UsageError: the pool has no such row, it has no score, or the score's method can't be split; names it.
        SpecError: the model, the adapter or the encoder are not those of the features any more.
    """
    progress = progress or Silent()
    stored = open_store(store_path)
    artefact = stored.get(f"selections/{store.check_name(selection, 'SELECTION')}")
    stored.check_parents(artefact)
    pool = str(artefact.attrs["data"])
    moved_data(stored, data, default=[pool])
    dataset = stored.get(f"datasets/{pool}")
    number = row_number(dataset, row)
    score = stored.get(next(name for name in artefact.parents if name.startswith("scores/")))
    values = score.read("score")
    side = _splittable(stored, score, dataset)
    if np.isnan(values[number]):
        raise UsageError(
            f"{score.name} has no score of the row {row!r}, so there is nothing to split.", "Give another."
        )
    linear = _linear(stored, score, side, dataset, number, np.flatnonzero(~np.isnan(values)))
    progress.note(f"loading {side.attrs['model']} to split the score over the row's tokens")
    made = remake(stored, side, dtype=side.spec["dtype"], device=device)
    encoded = _encoded(stored, dataset, number, made)
    split = partial(_engine(side, made), encoded, linear.direction)
    products = alone(split, name=f"row {number + 1} of {dataset.name}", tokens=len(encoded)) * linear.scale
    return TokenExplanation(
        selection=artefact.name,
        row=number,
        row_id=str(dataset.take("row_id", [number])[0]),
        score_name=score.name,
        method=str(score.spec["method"]),
        score=float(values[number]),
        offset=linear.offset,
        tokens=_tokens(encoded, products, made.loaded.tokenizer.decode),
    )


def _tokens(encoded: Encoded, products: Wide, decode: Callable[[list[int]], str]) -> tuple[Token, ...]:
    """The row's tokens with their products."""
    magnitude = float(np.abs(products).sum()) or 1.0
    rows = zip(encoded.ids.tolist(), encoded.supervised.tolist(), products.tolist(), strict=True)
    return tuple(
        Token(i, token, decode([token]), supervised, value, value / magnitude)
        for i, (token, supervised, value) in enumerate(rows)
    )


def _splittable(stored: store.Store, score: store.Artefact, dataset: store.Artefact) -> store.Artefact:
    """The pool's features that the score was made from. UsageError if it can't be split over tokens."""
    method = str(score.spec["method"])
    if method not in METHODS:
        raise UsageError(
            f"--tokens splits scores that are sums over a row's gradient (mean, cosine); {score.name} is of --method "
            f"{method}.",
            "Score by --method cosine or mean, and select by that.",
        )
    name = next(name for name in score.parents if name.startswith(f"features/{dataset.name.partition('/')[2]}/"))
    side = stored.get(name)
    refuse_adam(side, what="--tokens splits gradients, and these are no sums over tokens")
    return side


def _linear(
    stored: store.Store,
    score: store.Artefact,
    side: store.Artefact,
    dataset: store.Artefact,
    number: int,
    scored: Rows,
) -> LinearScore:
    """The row's score as a linear function of its feature."""
    spec, pool = score.spec, dataset.name.partition("/")[2]
    made_from = [name.split("/")[1] for name in score.parents if name.startswith("features/")]
    domains = [name for name in made_from if name != pool] or [pool]
    if pool in made_from and len(np.atleast_1d(spec["domain"])) > len(domains):
        domains.append(pool)  # the pool is one of several domains
    _, domain_features = features_of(stored, pool=pool, domains=domains, feature=side.name.split("/")[2])
    grouping = spec.get("groups", {})
    groups = domain_groups(stored, domains, group_by="source" if grouping.get("by") == "source" else None)
    readers = group_readers(stored, domain_features, groups)
    passes = bool(spec["centre"]) + ("whiten" in spec)
    with shown(f"reading {side.name}", total=side.n * passes, unit="rows") as advance:
        reader = FeatureReader(side, n=dataset.n, only=scored, on_block=advance)
        found = linear_scores(
            FeatureReader(side, n=dataset.n, only=np.array([number])),
            reader,
            readers,
            method=str(spec["method"]),
            centre=bool(spec["centre"]),
            whitening=whitener(reader, damping=float(spec["whiten"])) if "whiten" in spec else None,
        )
    weight = 1.0
    if "residual" in spec:
        have = side.read("row") if "row" in side.arrays else np.arange(side.n)
        weight = float(side.take("residual", [int(np.searchsorted(have, number))])[0])
    return _joined(found, side, dataset, number, across=grouping.get("across", "max"), weight=weight)


def _joined(
    found: Sequence[LinearScore],
    side: store.Artefact,
    dataset: store.Artefact,
    number: int,
    *,
    across: str,
    weight: float,
) -> LinearScore:
    """Of several groups: their mean or, across max, the one that the row's score is of; times its residual."""
    if across == "max" and len(found) > 1:
        (block,) = (b for b in FeatureReader(side, n=dataset.n, only=np.array([number])).blocks() if len(b.rows))
        raw = block.unit[0].astype(np.float64) * block.norm[0]
        found = [max(found, key=lambda one: one.scale * float(raw @ one.direction) + one.offset)]
    direction: Wide = np.mean([one.direction * one.scale for one in found], axis=0)
    offset = float(np.mean([one.offset for one in found]))
    return LinearScore(direction, weight, weight * offset)


def _encoded(stored: store.Store, dataset: store.Artefact, number: int, made: Remade) -> Encoded:
    """The row as the features' model saw it."""
    (row,) = rows_in_order(data_file(stored, dataset), np.array([number]), dataset.read("status"))
    try:
        if isinstance(row, BadRow):
            raise DataError(f"{row.place} can't be read.", "Restore the file.")
        return made.encoder.encode(row)
    except RowError as error:
        raise DataError(f"{row.place}: {error.reason}.", "Restore the file.") from error


def _engine(side: store.Artefact, made: Remade) -> Callable[[Encoded, Wide], Wide]:
    """Computes (row, direction) → products of each token (T,) float64."""
    import torch

    def on_device(direction: Wide) -> torch.Tensor:
        return torch.from_numpy(direction).to(made.loaded.device)

    if side.spec["kind"] == "embed":
        from ntkcli.engine.features.embeddings import EmbeddingEngine
        from ntkcli.engine.models.adapters import apply_adapter

        if made.adapter is not None:
            apply_adapter(made.loaded, made.adapter, made.model)
        pooled = EmbeddingEngine(made.loaded, pooling=side.spec["pooling"])

        def embed(row: Encoded, direction: Wide) -> Wide:
            found = pooled.token_products(row, positions=side.spec["positions"], direction_p=on_device(direction))
            return found.cpu().numpy()

        return embed
    from ntkcli.engine.features.extract import adapted_layers, gradient_engine

    settings = gradient_settings(side.spec)
    layers = adapted_layers(made.loaded, model=made.model, adapter=made.adapter, settings=settings)
    engine, positions = gradient_engine(made.loaded, layers, settings)

    def gradient(row: Encoded, direction: Wide) -> Wide:
        found = engine.token_products(row, positions=positions, direction_p=on_device(direction))
        return found.cpu().numpy()

    return gradient
