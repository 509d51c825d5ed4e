"""How scores of one pool agree: rank correlations, common top rows, length and sources. Writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.errors import NtkselError, UsageError
from ntkcli.scoring.groups import mean_ranks
from ntkcli.selection.top import top
from ntkcli.steps.scores.combine import scores_of_one_pool
from ntkcli.steps.shared.lengths import kept_lengths, settle_encoding
from ntkcli.steps.shared.stores import open_store

TOP_SHARE = 0.1
"""Of the common rows, what counts as the top by default: about the share that a second stage keeps."""


@dataclass(frozen=True, slots=True)
class PairAgreement:
    """Two scores over the `rows` that both have, in [-1, 1]; `overlap` is the share of common rows among the top N."""

    first: str
    second: str
    rows: int
    spearman: float
    kendall: float
    overlap: float


@dataclass(frozen=True, slots=True)
class ScoreProfile:
    """One score: its Spearman correlation with length in tokens (None: lengths unknown) and its top N by source."""

    score: str
    scored: int
    length_correlation: float | None
    top_sources: dict[str, int]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All pairs and each score; `n` is the N of the top rows, taken among the rows that all scores have."""

    pool: str
    n: int
    pairs: tuple[PairAgreement, ...]
    scores: tuple[ScoreProfile, ...]


def compare_scores(store_path: str | Path, *, scores: Sequence[str], n: int | None = None) -> Comparison:
    """Compare two or more scores of one pool; Kendall is tau-b. `n` defaults to a tenth of the common rows.

    Raises:
        UsageError: fewer than two scores, fewer than two common rows, or `n` above them.
        SpecError: the scores are of different data sets.
    """
    stored = open_store(store_path)
    found = scores_of_one_pool(stored, scores, option="--compare")
    values = [artefact.read("score").astype(np.float64) for artefact in found]
    ties = [artefact.read("similarity") for artefact in found]
    common = np.flatnonzero(~np.isnan(np.stack(values)).any(axis=0))
    if len(common) < 2:
        raise UsageError(f"The scores have {len(common)} rows in common.", "Compare scores of the same rows.")
    n = max(1, round(TOP_SHARE * len(common))) if n is None else n
    if n > len(common):
        raise UsageError(f"-n {n}: the scores have {len(common)} rows in common.", f"Give -n up to {len(common)}.")
    best = [common[top(v[common].astype(np.float32), t[common], n)] for v, t in zip(values, ties, strict=True)]
    names = [artefact.name.partition("/")[2] for artefact in found]
    pairs = tuple(
        _agree(names[a], names[b], values[a][common], values[b][common], len(np.intersect1d(best[a], best[b])) / n)
        for a, b in combinations(range(len(found)), 2)
    )
    pool = str(found[0].attrs["data"])
    tokens = _lengths(stored, found, pool)
    dataset = stored.get(f"datasets/{pool}")
    profiles = tuple(
        ScoreProfile(name, int((~np.isnan(value)).sum()), _with_length(value, tokens), _sources(dataset, rows))
        for name, value, rows in zip(names, values, best, strict=True)
    )
    return Comparison(pool, n, pairs, profiles)


def _agree(first: str, second: str, a: NDArray[np.float64], b: NDArray[np.float64], overlap: float) -> PairAgreement:
    from scipy import stats

    kendall = float(stats.kendalltau(a, b).statistic)
    return PairAgreement(first, second, len(a), _spearman(a, b), kendall, overlap)


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The correlation of mean ranks; NaN where one side is constant."""
    a, b = mean_ranks(a), mean_ranks(b)
    if a.min() == a.max() or b.min() == b.max():
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _lengths(stored: store.Store, scores: Sequence[store.Artefact], pool: str) -> NDArray[np.int64] | None:
    """Each row's tokens, None where nothing says how they are counted, or several things do."""
    try:
        encoding = settle_encoding(stored, pool, option="--compare", tokens_of=None, made_from=scores)
        return kept_lengths(stored, pool, encoding)
    except NtkselError:
        return None


def _with_length(value: NDArray[np.float64], tokens: NDArray[np.int64] | None) -> float | None:
    if tokens is None:
        return None
    known = ~np.isnan(value) & (tokens > 0)
    return _spearman(value[known], tokens[known].astype(np.float64)) if known.sum() > 1 else None


def _sources(dataset: store.Artefact, rows: NDArray[np.int64]) -> dict[str, int]:
    labels = dataset.attrs["sources"]
    counts = np.bincount(dataset.take("source", rows), minlength=len(labels))
    return {str(labels[code]): int(counts[code]) for code in np.argsort(-counts, kind="stable") if counts[code]}
