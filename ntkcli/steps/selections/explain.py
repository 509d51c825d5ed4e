"""Why rows were chosen, or not: their nearest domain rows, their rank in every score, and what they added."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.errors import UsageError
from ntkcli.progress import Progress, counted
from ntkcli.scoring.features import FeatureReader
from ntkcli.selection.top import top
from ntkcli.steps.remote.reading import reading
from ntkcli.steps.selections.selectors import ComparedRows, SelectorFeatures, features_to_compare, rows_with_features
from ntkcli.steps.selections.why_not import displaced
from ntkcli.steps.shared.datasets import moved_data
from ntkcli.steps.shared.pool_rows import PoolRow, pool_rows
from ntkcli.steps.shared.row_ids import first_row_of
from ntkcli.steps.shared.stores import refuse_url, require_current

NEAREST = 3
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DomainRow:
    """A domain row near the row at hand, by cosine of the features."""

    domain: str
    row_id: str
    similarity: float


@dataclass(frozen=True, slots=True)
class ScoreRank:
    """The row in one score of the pool: its value and its rank from 1 among `scored` rows; None = not scored."""

    score: str
    method: str
    value: float | None
    rank: int | None
    scored: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """One pool row: its rank from 1 in the selection or None, what it gained when taken, and what it is like.

    `gain` is the selector's marginal gain; for `top` the score above the lowest one chosen. For a row that was not
    chosen, `why_not` says what kept it out and `displaced_by` is the id of the chosen row in its place, if one is.
    `farthest` are the domain rows that it is least like and `lowest` the pool's rows with the lowest scores, the worst
    first, where they were asked for: what it, and what they would harm.
    """

    selection: str
    row: int
    row_id: str
    source: str
    rank: int | None
    gain: float | None
    displaced_by: str | None
    why_not: str | None
    nearest: tuple[DomainRow, ...]
    scores: tuple[ScoreRank, ...]
    farthest: tuple[DomainRow, ...] | None = None
    lowest: tuple[PoolRow, ...] | None = None


def explain(
    store_path: str | Path, *, selection: str, row: str, bottom: bool = False, data: Sequence[str] = ()
) -> Explanation:
    """Explain one row of the selection's pool, given by its id or else by its number from 0.

    `bottom` adds the farthest domain rows and the pool's lowest rows. `data` is where the pool's file is now, if it has
    moved. `store_path` may be the URL of a pushed store.

    Raises:
        UsageError: the pool has no such row.
    """
    if data:
        refuse_url(store_path, "explain --data, which notes where files are now,")
    with reading(store_path) as stored:
        return _explain(stored, selection, row, bottom=bottom, data=data)


def _explain(stored: store.Store, selection: str, row: str, *, bottom: bool, data: Sequence[str]) -> Explanation:
    artefact = stored.get(f"selections/{store.check_name(selection, 'SELECTION')}")
    require_current(stored, artefact)
    moved_data(stored, data, default=[str(artefact.attrs["data"])])
    asked = np.array([row_number(stored.get(f"datasets/{artefact.attrs['data']}"), row)])
    found = next(_explanations(stored, artefact, asked))
    if not bottom:
        return found
    score = _score_of(stored, artefact)
    farthest = _nearest(stored, artefact, score, asked, farthest=True).get(int(asked[0]), ())
    return replace(found, farthest=farthest, lowest=_lowest(stored, score))


def row_number(dataset: store.Artefact, row: str) -> int:
    """The number of a data set's row that is given by its id or else by its number. UsageError if there is none."""
    if (found := first_row_of(dataset, row)) is not None:
        return found
    if row.isascii() and row.isdigit() and int(row) < dataset.n:
        return int(row)
    raise UsageError(
        f"The pool {dataset.name.partition('/')[2]!r} has no row {row!r}.",
        f"Give a row's id, or a number to {dataset.n - 1}.",
    )


def write_explanations(stored: store.Store, selection: store.Artefact, progress: Progress) -> Path:
    """`reports/<selection>-why.jsonl`: an explanation of each chosen row, in rank order."""
    path = stored.folder("reports", f"{selection.name.partition('/')[2]}-why.jsonl")
    path.parent.mkdir(exist_ok=True)
    found = counted(
        _explanations(stored, selection, selection.read("row")),
        progress,
        "explanations",
        total=selection.n,
        unit="rows",
    )
    store.write_bytes(path, *(json.dumps(_line(each), ensure_ascii=False).encode() + b"\n" for each in found))
    return path


def _line(found: Explanation) -> dict[str, Any]:
    """The explanation as a line of the report, without the fields that only one row asked for has."""
    return {key: value for key, value in asdict(found).items() if key not in ("farthest", "lowest")}


def _lowest(stored: store.Store, score: store.Artefact) -> tuple[PoolRow, ...]:
    """The rows of the pool with the lowest scores, the lowest first."""
    values = score.read("score")
    order = top(values, score.read("similarity"), len(values))
    worst = order[::-1][:NEAREST]
    ranks = np.arange(len(order), len(order) - len(worst), -1)
    return pool_rows(stored, stored.get(f"datasets/{score.attrs['data']}"), worst, values=values, ranks=ranks)


def _score_of(stored: store.Store, selection: store.Artefact) -> store.Artefact:
    return stored.get(next(name for name in selection.parents if name.startswith("scores/")))


def _explanations(stored: store.Store, selection: store.Artefact, rows: Rows) -> Iterator[Explanation]:
    """One for each of `rows`, in their order."""
    data = str(selection.attrs["data"])
    dataset = stored.get(f"datasets/{data}")
    score = _score_of(stored, selection)
    values = score.read("score")
    chosen = selection.read("row")
    rank_of = {int(row): rank for rank, row in enumerate(chosen, start=1)}
    gains = selection.read("gain") if "gain" in selection.arrays else values[chosen] - np.nanmin(values[chosen])
    nearest = _nearest(stored, selection, score, rows)
    ranks = _ranks(stored, data, rows)
    labels = dataset.attrs["sources"]
    ids, sources = dataset.take("row_id", rows), dataset.take("source", rows)
    features = _known_features(stored, selection, score)
    for i, row in enumerate(rows.tolist()):
        rank = rank_of.get(row)
        gain = None if rank is None or np.isnan(gains[rank - 1]) else float(gains[rank - 1])
        instead = displaced(stored, selection, score, row, features) if rank is None else None
        by = None if instead is None or instead.by is None else str(dataset.take("row_id", [instead.by])[0])
        yield Explanation(
            selection=selection.name,
            row=row,
            row_id=str(ids[i]),
            source=str(labels[sources[i]]),
            rank=rank,
            gain=gain,
            displaced_by=by,
            why_not=instead.why if instead else None,
            nearest=nearest.get(row, ()),
            scores=tuple(each[i] for each in ranks),
        )


def _nearest(
    stored: store.Store, selection: store.Artefact, score: store.Artefact, rows: Rows, *, farthest: bool = False
) -> dict[int, tuple[DomainRow, ...]]:
    """The nearest, or farthest, domain rows of each row with features; none where no features are known."""
    features = _known_features(stored, selection, score)
    if features is None:
        return {}
    n = stored.get(f"datasets/{selection.attrs['data']}").n
    asked = np.intersect1d(rows, rows_with_features(features, n=n))
    if not len(asked):
        return {}
    scored = np.flatnonzero(~np.isnan(score.read("score")))
    similar = ComparedRows(features, n=n, rows=asked, mean_over=scored).similar()
    names = list(_domain_rows(stored, features))
    best = np.argsort(similar if farthest else -similar, axis=1, kind="stable")[:, :NEAREST]
    return {
        row: tuple(DomainRow(names[j][0], names[j][1], float(similar[i, j])) for j in best[i])
        for i, row in enumerate(asked.tolist())
    }


def _known_features(stored: store.Store, selection: store.Artefact, score: store.Artefact) -> SelectorFeatures | None:
    data = str(selection.attrs["data"])
    made_from = [name.split("/")[1:] for name in selection.parents if name.startswith("features/")]
    domains = [name for name, _ in made_from if name != data] or [name for name, _ in made_from]
    try:
        return features_to_compare(
            stored,
            score,
            feature=made_from[0][1] if made_from else None,
            domains=domains,
            centre=bool(selection.spec.get("centre")),
        )
    except UsageError:  # a score by words or by chance
        return None


def _domain_rows(stored: store.Store, features: SelectorFeatures) -> Iterator[tuple[str, str]]:
    """Data set and id of each domain row with features, in the order of the similarities."""
    for side in features.domains:
        name = side.name.split("/")[1]
        dataset = stored.get(f"datasets/{name}")
        reader = FeatureReader(side, n=dataset.n)
        have = reader.covered[np.isfinite(side.read("norm"))]
        yield from ((name, str(row_id)) for row_id in dataset.take("row_id", have))


def _ranks(stored: store.Store, data: str, rows: Rows) -> list[list[ScoreRank]]:
    """For each finished score of the pool, the rank of each row."""
    found = []
    for score in stored.artefacts(store.Kind.SCORE):
        if score.attrs["data"] != data or not score.complete:
            continue
        values = score.read("score")
        order = top(values, score.read("similarity"), len(values))
        rank = np.zeros(len(values), dtype=np.int64)
        rank[order] = np.arange(1, len(order) + 1)
        name, method = score.name.partition("/")[2], str(score.spec["method"])
        found.append([_rank(name, method, values[row], int(rank[row]), len(order)) for row in rows])
    return found


def _rank(name: str, method: str, value: float, rank: int, scored: int) -> ScoreRank:
    return ScoreRank(name, method, None if rank == 0 else float(value), rank or None, scored)
