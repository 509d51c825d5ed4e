"""Which rows each run gets: properties that hold for every pool, and refusals that name the fix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkcli.errors import DataError, UsageError
from ntkcli.steps.validation.plan import (
    BIN,
    DESIGNS,
    MIXTURE,
    UNIFORM,
    Design,
    Pool,
    check_subsets,
    cut,
    default_rows,
    make_runs,
    order_of,
    parse_bins,
)


def made(n: int = 400, *, sources: int = 4, scores: int = 2, seed: int = 0, oracle: bool = False) -> Pool:
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(3 * n, n, replace=False)).astype(np.int64)
    tokens = rng.integers(5, 80, n)
    return Pool(
        rows,
        tokens,
        rng.integers(0, sources, n),
        rng.normal(size=(scores, n)),
        np.full((scores, n), np.nan),
        np.sort(rng.choice(rows, n // 4, replace=False)) if oracle else None,
    )


def test_bins_as_numbers_and_as_edges() -> None:
    assert parse_bins("5") == (20, 40, 60, 80, 100)
    assert parse_bins("1,5,20,50,100") == (1, 5, 20, 50, 100)
    for text in ("1", "a", "5,5,100", "50,20", "0,50", "50,120", "2.5", ""):
        with pytest.raises(UsageError, match="1,5,20,50,100"):
            parse_bins(text)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(60, 300), rows=st.integers(1, 10), seed=st.integers(0, 50), sources=st.integers(1, 5),
    oracle=st.booleans(),
)  # fmt: skip
def test_every_run_has_as_many_rows_none_twice_and_from_where_it_says(
    n: int, rows: int, seed: int, sources: int, oracle: bool
) -> None:
    pool = made(n, sources=sources, seed=seed, oracle=oracle)
    design = Design((20, 60, 100), 12, rows, (0, 3))
    runs = make_runs(pool, design, ["a", "b"])
    assert len(runs) == 1 + 2 * (2 + oracle) + 2 * 2 * 3 + 12
    bins = [cut(order_of(score, tie), design.edges) for score, tie in zip(pool.scores, pool.ties, strict=True)]
    for run in runs:
        assert len(run.rows) == (0 if run.design in ("base", "domain") else rows)
        assert len(np.unique(run.rows)) == len(run.rows)
        assert np.isin(run.rows, pool.rows).all()
        if run.design == BIN:
            assert np.isin(run.rows, pool.rows[bins[run.score][run.bin]]).all()
        if run.design == "oracle":
            assert np.isin(run.rows, pool.oracle).all()
    again = make_runs(pool, design, ["a", "b"])
    assert all((a.rows == b.rows).all() for a, b in zip(runs, again, strict=True))
    assert [run.design for run in runs if run.score < 0].count(MIXTURE) == 6


def test_bins_are_ranks_best_first() -> None:
    score = np.array([0.1, 5.0, 3.0, 3.0, -1.0])
    order = order_of(score, np.array([0, 0, 1.0, 2.0, 0]))
    assert order.tolist() == [1, 3, 2, 0, 4]
    assert [own.tolist() for own in cut(order, (40, 100))] == [[1, 3], [2, 0, 4]]


def test_equal_scores_are_not_split_by_place() -> None:
    order = order_of(np.zeros(1000), np.full(1000, np.nan))
    assert abs(order[:500].mean() - 499.5) < 60


def test_bins_get_like_tokens_even_if_the_score_follows_length() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(10, 60, 2000)
    follows = tokens + rng.normal(0, 20, 2000)
    pool = Pool(np.arange(2000), tokens, np.zeros(2000, np.int64), follows[None], np.full((1, 2000), np.nan))
    runs = [run for run in make_runs(pool, Design((50, 100), 0, 100, (0,)), ["a"]) if run.design == BIN]
    totals = [tokens[run.rows].sum() for run in runs]
    plain = [tokens[half].mean() for half in cut(order_of(follows, pool.ties[0]), (50, 100))]
    assert plain[0] / plain[1] > 1.5
    assert max(totals) / min(totals) < 1.1


def test_seeds_get_other_rows_of_the_same_bin() -> None:
    pool = made(1000)
    runs = [run for run in make_runs(pool, Design((50, 100), 0, 50, (0, 1)), ["a", "b"]) if run.design == BIN]
    first, second = (run.rows for run in runs if (run.score, run.bin) == (0, 0))
    assert len(np.intersect1d(first, second)) < 25


def test_mixtures_spread_the_sums_more_than_plain_draws() -> None:
    rng = np.random.default_rng(1)
    source = rng.integers(0, 4, 2000)
    scores = (source + rng.normal(0, 1, 2000))[None]
    for own in (source, np.zeros(2000, np.int64)):  # with sources, and with one alone
        pool = Pool(np.arange(2000), rng.integers(5, 50, 2000), own, scores, np.full((1, 2000), np.nan))
        runs = make_runs(pool, Design((), 60, 100, (0,)), ["a"])
        sums = {kind: [scores[0][run.rows].sum() for run in runs if run.design == kind] for kind in (UNIFORM, MIXTURE)}
        assert len(sums[UNIFORM]) == len(sums[MIXTURE]) == 30
        assert np.std(sums[MIXTURE]) > 2 * np.std(sums[UNIFORM])


def test_too_few_rows_are_refused_with_the_number_that_would_do() -> None:
    pool = made(100, oracle=True)
    with pytest.raises(DataError, match=r"0% to 5% of a, b has 5 rows .* --rows 5 or fewer"):
        make_runs(pool, Design((5, 100), 0, 6, (0,)), ["a", "b"])
    with pytest.raises(DataError, match="oracle has 25 rows"):
        make_runs(pool, Design((), 12, 30, (0,)), ["a", "b"])
    with pytest.raises(DataError, match="100 rows are scored by all of a, b"):
        make_runs(pool, Design((), 12, 101, (0,)), ["a", "b"])
    with pytest.raises(UsageError, match=r"--subsets 9: too few .* needs \d\d subsets"):
        check_subsets(9)
    check_subsets(10)
    assert default_rows(pool, (5, 100)) == 2
    assert default_rows(made(4000), (50, 100)) == 256


def test_codes_of_designs_stay() -> None:
    """They stand in stores."""
    assert DESIGNS == ("base", "domain", "random", "oracle", "bin", "uniform", "mixture")
