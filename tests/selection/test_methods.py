"""Every selector against a plain, slow one; what holds for all: exactly N, none twice, in any order of the pool."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkcli.api import score
from ntkcli.errors import UsageError
from ntkcli.selection.chooser import Chooser, Limits
from ntkcli.selection.coverage import choose_by_coverage
from ntkcli.selection.herding import choose_by_herding
from ntkcli.selection.top import choose_top
from ntkcli.selection.transport import ENTROPY, NEAR, PULL, densities, transported_mass
from ntkcli.steps.selections.select import Constraints, select
from ntkcli.steps.shared.stores import open_store
from tests.conftest import prompt_rows
from tests.scoring.kit import add_data, add_features, cosines, make_store

METHODS = ("top", "round-robin", "herding", "coverage", "ot")


def unit(n: int, p: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, p)) + 0.3
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def chooser(rows: int, n: int) -> Chooser:
    return Chooser(Limits(source=np.zeros(rows, dtype=np.int64), n=n))


def scored_store(folder: Path, *, centre: bool = False, n: int = 60) -> tuple[Path, np.ndarray, np.ndarray]:
    path, pool, domain = make_store(folder, n=n)
    score(path, pool="pool", domain="domain", method="cosine", feature="embed", centre=centre, name="x")
    return path, pool, domain


def rows_of(path: Path, name: str) -> list[int]:
    return [int(row) for row in open_store(path).get(f"selections/{name}").read("row")]


@pytest.mark.parametrize("exponent", [0.3, 0.5, 1.0])
def test_coverage_is_the_greedy_maximum(exponent: float) -> None:
    similar = unit(700, 5, 0) @ unit(12, 5, 1).T
    picked = chooser(700, 40)
    choose_by_coverage(picked, similar.copy(), exponent=exponent)
    shifted = (similar - similar.min(axis=0)).astype(np.float64)
    covered, expected = np.zeros(12), []
    for _ in range(40):
        gains = ((covered + shifted) ** exponent - covered**exponent).sum(axis=1)
        gains[expected] = -np.inf
        expected.append(int(np.argmax(gains)))
        covered += shifted[expected[-1]]
    assert picked.taken == expected
    if exponent == 1:
        assert picked.taken == np.argsort(-similar.mean(axis=1), kind="stable")[:40].tolist()


def test_herding_is_greedy_mean_matching(monkeypatch: pytest.MonkeyPatch) -> None:
    """With few contenders, so that rows outside matter: each step brings the mean nearest to the domain's."""
    monkeypatch.setattr("ntkcli.selection.herding.CONTENDERS", 20)
    x, target = unit(500, 6, 2), unit(9, 6, 3).mean(axis=0).astype(np.float64)
    picked = chooser(500, 60)
    choose_by_herding(picked, x, target)
    total, expected = np.zeros(6), []
    for t in range(60):
        distance = np.linalg.norm(target - (total + x.astype(np.float64)) / (t + 1), axis=1)
        distance[expected] = np.inf
        expected.append(int(np.argmin(distance)))
        total += x[expected[-1]]
    assert picked.taken == expected


def test_transport_against_plain_scaling() -> None:
    similar, x = unit(40, 4, 4) @ unit(6, 4, 5).T, unit(40, 4, 4)
    density = np.maximum(1 - ((x[:, None] - x[None]) ** 2).sum(axis=2) / NEAR, 0).sum(axis=1)
    np.testing.assert_allclose(densities(x), np.maximum(density, 1), rtol=1e-4)
    weight = 1 / np.maximum(density, 1)
    weight /= weight.sum()
    kernel = np.outer(np.full(6, 1 / 6), weight) * np.exp(-(1 - similar.T.astype(np.float64)) / ENTROPY)
    u, v = np.ones(6), np.ones(40)
    for _ in range(5000):
        u = (1 / 6) / (kernel @ v)
        v = (weight / (kernel.T @ u)) ** (PULL / (PULL + ENTROPY))
    plan = u[:, None] * kernel * v
    np.testing.assert_allclose(transported_mass(similar, x), plan.sum(axis=0) / plan.sum(), rtol=1e-3, atol=1e-7)


def test_transport_gives_duplicates_a_share_each() -> None:
    x = unit(30, 4, 6)
    twice = np.concatenate([x, x[:1], x[:1]])
    domain = x[:3]
    mass = transported_mass(twice @ domain.T, twice)
    assert mass[0] == pytest.approx(mass[30])
    alone = transported_mass(x @ domain.T, x)
    assert 3 * mass[0] == pytest.approx(alone[0], rel=0.02)


@pytest.mark.parametrize("centre", [False, True])
def test_round_robin_takes_turns(centre: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ntkcli.selection.round_robin.FIRST_DEPTH", 1)  # so that lists run out
    path, pool, domain = scored_store(tmp_path, centre=centre)
    select(path, score="x", n=50, method="round-robin", name="y")
    similar = cosines(domain, pool, centre_on=np.delete(pool, 5, axis=0) if centre else None)
    similar[:, 5] = -np.inf
    expected: list[int] = []
    while len(expected) < 50:
        row = similar[len(expected) % len(domain)].copy()
        row[expected] = -np.inf
        expected.append(int(np.argmax(row)))
    assert rows_of(path, "y") == expected


@pytest.mark.parametrize("method", METHODS)
def test_exactly_n_none_twice_none_without_features(method: str, tmp_path: Path) -> None:
    path, *_ = scored_store(tmp_path)
    for n in (1, 17, 59):
        result = select(path, score="x", n=n, method=method, name=f"y{n}")
        rows = rows_of(path, f"y{n}")
        assert result.rows == len(set(rows)) == n
        assert 5 not in rows
    again = select(path, score="x", n=17, method=method, name="again")
    assert rows_of(path, "again") == rows_of(path, "y17")
    assert again.rows == 17


@pytest.mark.parametrize("method", METHODS)
def test_the_pools_order_changes_nothing(method: str, tmp_path: Path) -> None:
    path, pool, _ = scored_store(tmp_path)
    select(path, score="x", n=20, method=method, name="y")
    order = np.random.default_rng(3).permutation(len(pool))
    rows = prompt_rows(60, seed=1)
    add_data(path, "shuffled", [rows[i] for i in order])
    add_features(path, "shuffled", pool[order], missing=np.flatnonzero(order == 5).tolist())
    score(path, pool="shuffled", domain="domain", method="cosine", feature="embed", name="z")
    select(path, score="z", n=20, method=method, name="z")
    assert [int(order[row]) for row in rows_of(path, "z")] == rows_of(path, "y")


@pytest.mark.parametrize("method", METHODS)
def test_auto_stops_when_nothing_is_gained(method: str, tmp_path: Path) -> None:
    """A pool with 12 rows near the domain and 40 opposite to it: auto takes some of the near ones and stops."""
    path, p = tmp_path / "s", 6
    draw = np.random.default_rng(0)
    near, far = draw.normal(size=(12, p)) * 0.2 + 1, draw.normal(size=(40, p)) * 0.2 - 1
    add_data(path, "pool", prompt_rows(52, seed=1))
    add_data(path, "domain", prompt_rows(5, seed=2))
    add_features(path, "pool", np.concatenate([near, far]))
    add_features(path, "domain", draw.normal(size=(5, p)) * 0.2 + 1)
    score(path, pool="pool", domain="domain", method="cosine", feature="embed", name="x")
    select(path, score="x", n="auto", method=method, name="y")
    assert 1 <= len(rows_of(path, "y")) <= 20
    assert set(rows_of(path, "y")[:1]) <= set(range(12))


ROWS = np.arange(1000, dtype=np.float32)
STRAIGHT = {
    "straight": ROWS,
    "straight and steep": ROWS * 1e-6 + 5,
    "evenly spread": np.random.default_rng(0).uniform(size=1000).astype(np.float32),
    "all the same": np.ones(1000, dtype=np.float32),
    "bent the other way": -((1000 - ROWS) ** 2).astype(np.float32),
    "more good rows than half": np.where(ROWS < 300, 0.0, 1.0).astype(np.float32) + ROWS * 1e-6,
    "too few to say": np.array([5, 4, 3.2, 1, 0], dtype=np.float32),
}
ELBOWS = {
    "a few good ones": np.where(ROWS < 40, 1.0, 0.0).astype(np.float32) + ROWS * 1e-6,
    "exponential": np.exp(-ROWS / 50).astype(np.float32),
    "one over rank": (1 / (1 + ROWS)).astype(np.float32),
    "normal": np.random.default_rng(0).normal(size=1000).astype(np.float32),
}


def taken(scores: np.ndarray) -> list[int]:
    chooser = Chooser(Limits(source=np.zeros(len(scores), dtype=np.int64), auto=True))
    choose_top(chooser, scores, np.zeros(len(scores), dtype=np.float32))
    return chooser.taken


@pytest.mark.parametrize("curve", list(STRAIGHT))
def test_auto_is_refused_where_top_sees_no_elbow(curve: str) -> None:
    draw = np.random.default_rng(1)
    with pytest.raises(UsageError, match=r"-n auto.*too evenly.*Give -n N"):
        taken(draw.permutation(STRAIGHT[curve]))


@pytest.mark.parametrize("curve", list(ELBOWS))
def test_auto_of_top_stops_below_a_twentieth_of_the_best(curve: str) -> None:
    """Measured from the median; the rows are the best ones."""
    scores = np.random.default_rng(1).permutation(ELBOWS[curve])
    height = scores.astype(np.float64) - np.median(scores)
    assert sorted(taken(scores)) == np.flatnonzero(height >= 0.05 * height.max()).tolist()


@settings(max_examples=150)
@given(
    sources=st.lists(st.integers(0, 3), min_size=30, max_size=30),
    most=st.dictionaries(st.integers(0, 3), st.integers(0, 9)),
    least=st.dictionaries(st.integers(0, 3), st.integers(0, 4)),
    n=st.integers(1, 20),
    budget=st.none() | st.integers(20, 200),
    exponent=st.sampled_from([0.5, 1.0]),
)
def test_quotas_hold_whenever_they_can(
    sources: list[int], most: dict[int, int], least: dict[int, int], n: int, budget: int | None, exponent: float
) -> None:
    source = np.array(sources)
    available = np.bincount(source, minlength=4)
    least = {s: min(r, most.get(s, r), int(available[s])) for s, r in least.items() if r}
    tokens = np.arange(30) % 9 + 1
    limits = Limits(source=source, n=n, most=most, least=least, tokens=tokens, token_budget=budget)
    picked = Chooser(limits)
    choose_by_coverage(picked, unit(30, 4, 0) @ unit(5, 4, 1).T, exponent=exponent)
    counts = np.bincount(source[picked.taken], minlength=4)
    assert len(set(picked.taken)) == len(picked.taken) <= n
    assert all(counts[s] <= rows for s, rows in most.items())
    spent = int(tokens[picked.taken].sum())
    assert budget is None or spent <= budget
    room = sum(min(int(a), most.get(s, int(a))) for s, a in enumerate(available))
    shortest = sum(int(np.sort(tokens[source == s])[:rows].sum()) for s, rows in least.items())
    if sum(least.values()) > n or (budget is not None and shortest > budget):
        return  # refused before (check_quotas, check_budget)
    assert all(counts[s] >= rows for s, rows in least.items())
    assert picked.owed() == {}
    if budget is None:
        assert len(picked.taken) == min(n, room)
    elif len(picked.taken) < n:  # nothing that would have fitted was left out
        others = np.setdiff1d(np.arange(30), picked.taken)
        fits = [row for row in others if counts[source[row]] < most.get(source[row], 31)]
        assert all(tokens[row] > budget - spent for row in fits)


def test_tau_keeps_chosen_rows_apart(tmp_path: Path) -> None:
    path, pool, _ = scored_store(tmp_path, n=200)
    for method in METHODS:
        select(path, score="x", n=20, method=method, name=f"t-{method}", constraints=Constraints(dedup="0.9"))
        rows = rows_of(path, f"t-{method}")
        among = cosines(pool[rows], pool[rows]) - np.eye(20)
        assert among.max() <= 0.9 + 1e-6
    plain = np.argsort(-np.nan_to_num(open_store(path).get("scores/x").read("score"), nan=-9))[:20]
    assert (cosines(pool[plain], pool[plain]) - np.eye(20)).max() > 0.9, "the set-up must need the constraint"
