"""How far scores follow the length of rows: from stored scores and token counts alone, no model runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

import store
from ntkcli.errors import IncompleteError, NtkselError
from ntkcli.progress import Progress
from ntkcli.selection.top import top
from ntkcli.statistics.correlation import RankCorrelation, ranks, spearman_of_sample
from ntkcli.steps.diagnosis.findings import Check, Cost, Finding, Line, Lines
from ntkcli.steps.diagnosis.request import Request
from ntkcli.steps.shared.lengths import lengths, settle_encoding
from ntkcli.steps.shared.stores import open_store

TOP_SHARE = 0.1
"""Of the scored rows: about the share that a selection takes."""
WORDS = ((0.5, "strongly"), (0.3, "moderately"), (0.1, "weakly"), (0.0, "hardly"))
"""Size of a correlation → how to call it (Cohen 1988, section 3.2)."""
_BINS = 10


def length(request: Request, *, progress: Progress) -> Finding:
    """Spearman of each score with its rows' tokens. Without `score`: of every finished score of the store
    whose lengths can be counted.

    Raises:
        IncompleteError: there is no score. UsageError: rows are counted in several ways, and `tokens_of` is not given.
    """
    stored = open_store(request.store_path)
    checks, lines = [], []
    scores: list[store.Artefact] = []
    basis: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for score in _scores(stored, request.score):
        try:
            check, line, basis[score.name] = _of_one(stored, score, request.tokens_of, progress)
        except NtkselError as error:
            if request.score:
                raise
            left_out[score.name] = str(error).removesuffix(".")
            continue
        checks.append(check)
        lines.append(line)
        scores.append(score)
    if not checks:
        why = "; ".join(left_out.values())
        raise IncompleteError(f"No score's lengths can be counted: {why}.", "Give --tokens-of FEATURE or MODEL.")
    panel = Lines("Score and length", "tokens of a row", "rank of the score (1: best)", lines, log_x=True)
    return Finding(tuple(checks), (panel,), {"tokens": basis}, parents=scores, left_out=left_out)


def _of_one(
    stored: store.Store, score: store.Artefact, tokens_of: str | None, progress: Progress
) -> tuple[Check, Line, dict[str, Any]]:
    """The check of one score, its line in the plot, and how tokens were counted."""
    name, pool = score.name.partition("/")[2], str(score.attrs["data"])
    value = score.read("score").astype(np.float64)
    scored = np.flatnonzero(np.isfinite(value))
    encoding = settle_encoding(stored, pool, option="diagnose length", tokens_of=tokens_of, made_from=[score])
    tokens = lengths(stored, pool, encoding, scored, progress=progress)
    known = scored[tokens[scored] > 0]
    if len(known) < 2:
        raise IncompleteError(f"{score.name} has {len(known)} rows with a score and a length.", "Score more rows.")
    found = spearman_of_sample(value[known], tokens[known].astype(np.float64))
    best = top(value[known].astype(np.float32), score.read("similarity")[known], max(1, round(TOP_SHARE * len(known))))
    return _check(name, found, tokens[known], best, score.spec), _line(name, value[known], tokens[known]), encoding.spec


def _scores(stored: store.Store, names: tuple[str, ...]) -> list[store.Artefact]:
    if not names:
        found = [score for score in stored.artefacts(store.Kind.SCORE, on_damage=lambda _: None) if score.complete]
        if not found:
            raise IncompleteError(f"{stored.path} has no finished score.", "Run `ntksel score` first.")
        return found
    found = [stored.get(f"scores/{store.check_name(name, '--score')}") for name in dict.fromkeys(names)]
    for score in found:
        stored.check_parents(score)
    return found


def _check(
    name: str, found: RankCorrelation, tokens: NDArray[np.int64], best: NDArray[np.int64], spec: Mapping[str, Any]
) -> Check:
    mean, of_best = float(tokens.mean()), float(tokens[best].mean())
    how = next(word for size, word in WORDS if abs(found.value) >= size)
    longer = "longer rows score higher" if found.value > 0 else "shorter rows score higher"
    sentence = (
        f"{name} {how} follows length: Spearman {found.value:+.2f} (95% {found.low:+.2f} to {found.high:+.2f}) over "
        f"{found.n:,} rows; its best tenth has {of_best:.0f} tokens per row, all rows {mean:.0f}."
    )
    if abs(found.value) >= 0.3:
        sentence += f" So {longer}" + "".join(_advice(spec)) + "."
    return Check(
        "length", name, found.value, found.low, found.high, sentence,
        {"rows": found.n, "mean_tokens": mean, "mean_tokens_of_best_tenth": of_best},
    )  # fmt: skip


def _advice(spec: Mapping[str, Any]) -> Iterator[str]:
    """What may help against a score that follows length and was made with `spec`, without what it does already."""
    if spec.get("method") == "random":
        return
    yield ": compare with random rows of the same lengths (`score --method random --match-length`)"
    if (spec.get("method"), spec.get("centre")) != ("cosine", True):
        yield ", and try `--method cosine --centre`"


def _line(name: str, value: NDArray[np.float64], tokens: NDArray[np.int64]) -> Line:
    """The mean rank of the score, 1 for the best, in bins of length that hold as many rows each."""
    order = np.argsort(tokens, kind="stable")
    share = ranks(value) / max(1, len(value) - 1)
    bins = [rows for rows in np.array_split(order, min(_BINS, len(order))) if len(rows)]
    x, y = ([float(values[rows].mean()) for rows in bins] for values in (tokens, share))
    return Line(name, x, y)


def length_cost(request: Request) -> Cost:
    """Nothing: stored scores and token counts are read."""
    del request
    return Cost("length", 0, 0, 0, 0.0)
