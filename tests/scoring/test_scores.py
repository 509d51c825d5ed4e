"""Every score against a dense product or the plain definition, on features made of numbers."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import store
from ntkcli.api import score
from ntkcli.errors import NtkselError
from ntkcli.scoring.groups import combine_by_rank, mean_ranks
from ntkcli.scoring.text import bm25_scores, dsir_scores, gumbel, hashed_counts, match_length_scores
from ntkcli.steps.scores.combine import combine
from ntkcli.steps.selections.select import Constraints, select
from ntkcli.steps.shared.stores import open_store
from tests.scoring.kit import add_data, add_features, cosines, make_store


def read(path: Path, name: str) -> np.ndarray:
    return np.asarray(open_store(path).get(f"scores/{name}").read("score"), dtype=np.float64)


def without_missing(pool: np.ndarray) -> np.ndarray:
    return np.delete(pool, 5, axis=0)


@pytest.mark.parametrize("centre", [False, True])
def test_max_is_the_highest_cosine(centre: bool, tmp_path: Path) -> None:
    path, pool, domain = make_store(tmp_path)
    score(path, pool="pool", domain="domain", method="max", feature="embed", centre=centre, name="x")
    expected = cosines(domain, pool, centre_on=without_missing(pool) if centre else None).max(axis=0)
    expected[5] = np.nan
    np.testing.assert_allclose(read(path, "x"), expected, atol=2e-6)


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("method", ["mean", "cosine", "votes"])
def test_scores_against_dense_products(
    method: str, centre: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64; with blocks of 3 and 5 rows, so that parts of 16 rows end inside one."""
    monkeypatch.setattr("ntkcli.scoring.features.CACHED_BYTES", 3 * 4 * 8)
    monkeypatch.setattr("ntkcli.scoring.features.MANY_ROWS", 5)
    path, pool, domain = make_store(tmp_path)
    k = {"k": 7} if method == "votes" else {}
    score(path, pool="pool", domain="domain", method=method, feature="embed", centre=centre, name="x", **k)  # type: ignore[arg-type]
    shift = without_missing(pool).mean(axis=0) if centre else 0.0
    similar = cosines(domain, pool, centre_on=without_missing(pool) if centre else None)
    if method == "mean":
        expected = (pool - shift) @ (domain.mean(axis=0) - shift)
    elif method == "cosine":
        expected = similar.mean(axis=0)
    else:
        similar[:, 5] = -np.inf
        expected = np.bincount(np.argsort(-similar, axis=1)[:, :7].ravel(), minlength=len(pool)).astype(float)
    expected[5] = np.nan
    np.testing.assert_allclose(read(path, "x"), expected, atol=2e-6 if method != "mean" else 2e-5)


def test_a_row_that_is_the_mean_itself_scores_a_finite_number(tmp_path: Path) -> None:
    path = tmp_path / "s"
    add_data(path, "pool", [{"prompt": f"p {i}", "completion": "c"} for i in range(4)])
    add_data(path, "domain", [{"prompt": "d", "completion": "c"}])
    add_features(path, "pool", np.ones((4, 3)))
    add_features(path, "domain", np.eye(1, 3))
    score(path, pool="pool", domain="domain", method="cosine", feature="embed", centre=True, name="x")
    assert np.isfinite(read(path, "x")).all()


def test_parts_without_a_wanted_row_are_not_read(tmp_path: Path) -> None:
    """Rows 0-15 are one part; its damage is met by a score of all rows, and not by a score of rows 20-39."""
    path, pool, domain = make_store(tmp_path)
    (tmp_path / "no.txt").write_text("".join(f"1-{i}\n" for i in (*range(20), *range(40, 60))))
    score(path, pool="pool", method="random", name="any")
    select(path, score="any", n=20, name="some", constraints=Constraints(exclude=(tmp_path / "no.txt",)))
    chunk = open_store(path).get("features/pool/embed").path / "embedding/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-9] + b"?" + chunk.read_bytes()[-8:])
    with pytest.raises(store.DamagedError, match=r"part 0 \(rows 0-15\)"):
        score(path, pool="pool", domain="domain", method="cosine", feature="embed", name="all")
    score(path, pool="pool", domain="domain", method="cosine", feature="embed", rows="some", name="x")
    np.testing.assert_allclose(read(path, "x")[20:40], cosines(domain, pool).mean(axis=0)[20:40], atol=2e-6)
    assert np.isnan(np.delete(read(path, "x"), np.arange(20, 40))).all()


@pytest.mark.parametrize("centre", [False, True])
def test_rds_takes_turns(centre: bool, tmp_path: Path) -> None:
    path, pool, domain = make_store(tmp_path)
    score(path, pool="pool", domain="domain", method="rds", feature="embed", k=6, centre=centre, name="x")
    similar = cosines(domain, pool, centre_on=without_missing(pool) if centre else None)
    similar[:, 5] = -np.inf
    expected = np.zeros(len(pool))
    expected[5] = np.nan
    lists = [list(np.argsort(-row)[:6]) for row in similar]
    turn = 0
    while any(lists):
        turn += 1
        for each in lists:
            while each and expected[each[0]] > 0:
                each.pop(0)
            if each:
                expected[each.pop(0)] = 1 / turn
    np.testing.assert_allclose(read(path, "x"), expected, rtol=1e-6)


@pytest.mark.parametrize("across", ["max", "mean"])
@pytest.mark.parametrize("method", ["cosine", "max"])
def test_groups_of_a_domain_by_source(method: str, across: str, tmp_path: Path) -> None:
    path, pool, domain = make_store(tmp_path, missing=())
    how = {"method": method, "feature": "embed", "group_by": "source", "across": across}
    score(path, pool="pool", domain="domain", name="x", **how)  # type: ignore[arg-type]
    similar = cosines(domain, pool)
    inside = np.mean if method == "cosine" else np.max
    groups = np.stack([inside(similar[i::2], axis=0) for i in (0, 1)])
    expected = groups.max(axis=0) if across == "max" else groups.mean(axis=0)
    np.testing.assert_allclose(read(path, "x"), expected, atol=2e-6)


def test_two_domains_are_two_groups(tmp_path: Path) -> None:
    path, pool, domain = make_store(tmp_path, missing=())
    other = np.random.default_rng(9).normal(size=(4, pool.shape[1]))
    add_data(path, "other", [{"prompt": f"p {i}", "completion": "c"} for i in range(4)])
    add_features(path, "other", other)
    score(path, pool="pool", domain=["domain", "other"], method="mean", feature="embed", name="x")
    expected = np.maximum(pool @ domain.mean(axis=0), pool @ other.mean(axis=0))
    np.testing.assert_allclose(read(path, "x"), expected, rtol=1e-4, atol=1e-4)


DOCUMENTS = ["red blue red", "The the; green", "", "blue green violet violet", "nothing shared"]
QUERIES = ["red green", "violet violet unseen", "!!"]


def test_bm25_against_the_formula() -> None:
    """Lucene's: idf = ln(1 + (n - df + .5)/(df + .5)); tf/(tf + k1 (1 - b + b len/mean len))."""
    words = [["red", "blue", "red"], ["the", "the", "green"], [], ["blue", "green", "violet", "violet"]]
    words += [["nothing", "shared"]]
    mean = sum(map(len, words)) / len(words)
    expected = np.zeros(len(words))
    for query in (["red", "green"], ["violet", "violet", "unseen"], []):
        for word in query:
            df = sum(word in document for document in words)
            idf = math.log(1 + (len(words) - df + 0.5) / (df + 0.5))
            for j, document in enumerate(words):
                tf = document.count(word)
                expected[j] += idf * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * len(document) / mean)) / 3
    found = bm25_scores(lambda: enumerate(DOCUMENTS), [QUERIES], n=6)[:, 0]
    np.testing.assert_allclose(found[:5], expected, rtol=1e-5)
    assert np.isnan(found[5])


def test_dsir_is_the_log_ratio_plus_noise() -> None:
    ids = [f"r{i}" for i in range(len(DOCUMENTS))]
    found = dsir_scores(lambda: enumerate(DOCUMENTS), [QUERIES], ids, seed=4)[:, 0]

    def shares(texts: list[str]) -> Counter[int]:
        return sum((hashed_counts(text) for text in texts), Counter())

    domain, pool = shares(QUERIES), shares(DOCUMENTS)
    for j, text in enumerate(DOCUMENTS):
        weight = sum(
            count * (math.log(domain[w] / domain.total() + 1e-8) - math.log(pool[w] / pool.total() + 1e-8))
            for w, count in hashed_counts(text).items()
        )
        assert found[j] == pytest.approx(weight + gumbel(ids[j], seed=4))
    assert hashed_counts("a b a").total() == 5  # three words, two pairs


def test_gumbel_noise_is_gumbel() -> None:
    values = [gumbel(str(i), seed=1) for i in range(2000)]
    assert stats.kstest(values, "gumbel_r").pvalue > 0.01


def test_match_length_draws_the_targets_lengths() -> None:
    draw = np.random.default_rng(0)
    pool, target = draw.integers(1, 400, 20_000), draw.normal(100, 15, 500).astype(int)
    scores = match_length_scores(pool, target, [str(i) for i in range(len(pool))], np.arange(len(pool)), seed=0)
    chosen = pool[np.argsort(-scores)[:400]]
    assert stats.ks_2samp(chosen, target).pvalue > 0.01
    assert stats.ks_2samp(pool, target).pvalue < 1e-9
    other = match_length_scores(pool, target, [str(i) for i in range(len(pool))], np.arange(len(pool)), seed=1)
    assert len(set(np.argsort(-other)[:400]) & set(np.argsort(-scores)[:400])) < 200


def test_match_length_end_to_end(tmp_path: Path) -> None:
    path, pool, _ = make_store(tmp_path, n=300)
    lengths = np.tile([10, 20, 30], 100)
    add_features(path, "pool", pool, feature="other", tokens=lengths)
    add_data(path, "short", [{"prompt": f"s {i}", "completion": "c"} for i in range(5)])
    add_features(path, "short", np.eye(5, 8), tokens=np.full(5, 20))
    score(path, pool="pool", method="random", match_length="short", name="x")
    assert set(lengths[np.argsort(-read(path, "x"))[:90]]) == {20}


def test_ranks_and_their_combination_against_scipy() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 9, 50).astype(float), draw.normal(size=50)
    np.testing.assert_array_equal(mean_ranks(a), stats.rankdata(a))
    a[3], b[7] = np.nan, np.nan
    both = ~np.isnan(a + b)
    expected = np.full(50, np.nan)
    expected[both] = (stats.rankdata(a[both]) + stats.rankdata(b[both])) / 2 / 48
    np.testing.assert_allclose(combine_by_rank([a, b]), expected)


def test_combine_writes_a_score(tmp_path: Path) -> None:
    path, *_ = make_store(tmp_path)
    for method in ("max", "cosine"):
        score(path, pool="pool", domain="domain", method=method, feature="embed", name=method)
    combine(path, scores=["max", "cosine"], name="both")
    both = combine_by_rank([read(path, "max"), read(path, "cosine")])
    np.testing.assert_allclose(read(path, "both"), both, rtol=1e-6)


@pytest.mark.parametrize("method", ["bm25", "dsir"])
def test_word_scores_end_to_end_find_the_domains_words(method: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    legal = [{"prompt": f"licence warranty notice {i}", "completion": "copyright"} for i in range(6)]
    other = [{"prompt": f"football score weather {i + 50}", "completion": "sunny"} for i in range(40)]
    add_data(path, "pool", [*other[:20], *legal[:3], *other[20:]])
    add_data(path, "domain", legal[3:])
    score(path, pool="pool", domain="domain", method=method, name="x")
    assert set(np.argsort(-read(path, "x"))[:3]) == {20, 21, 22}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"method": "max", "domain": None}, "--domain is missing"),
        ({"method": "bm25", "centre": True}, "--centre means nothing to --method bm25"),
        ({"method": "max", "k": 3}, "-k means nothing"),
        ({"method": "max", "match_length": "domain"}, "--match-length means nothing"),
        ({"method": "max", "domain": ["domain", "domain"]}, "twice"),
        ({"method": "max", "across": "median"}, "--across median"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, object], text: str, tmp_path: Path) -> None:
    path, *_ = make_store(tmp_path)
    with pytest.raises(NtkselError, match=text):
        score(path, **{"pool": "pool", "domain": "domain", "feature": "embed", "name": "x", **options})  # type: ignore[arg-type]


def test_combine_refuses_scores_of_other_rows(tmp_path: Path) -> None:
    path, *_ = make_store(tmp_path)
    score(path, pool="pool", method="random", name="a")
    score(path, pool="domain", method="random", name="b")
    with pytest.raises(NtkselError, match="same pool"):
        combine(path, scores=["a", "b"], name="c")
    with pytest.raises(NtkselError, match="two different scores"):
        combine(path, scores=["a", "a"], name="c")
