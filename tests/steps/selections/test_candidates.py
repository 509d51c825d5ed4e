"""Rows are looked at in rank order until enough pass, with the same choice as all at once; and --candidates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ntkcli.api import score
from ntkcli.errors import UsageError
from ntkcli.selection.chooser import Chooser, Limits
from ntkcli.selection.herding import choose_by_herding
from ntkcli.steps.selections import filter_and_choose, leaks, selectors
from ntkcli.steps.selections.select import Constraints, SelectResult, select
from ntkcli.steps.shared.stores import open_store
from tests.scoring.kit import add_data, add_features

N, CHOSEN = 300, 12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A pool in which every fifth row says what the row before says, and rows 7, 27, ... hold an item of the test."""
    draw = np.random.default_rng(0)
    words = [" ".join(f"w{w}" for w in draw.integers(0, 9999, 12)) for _ in range(N)]
    for i in range(4, N, 5):
        words[i] = words[i - 1].upper() + "!"
    for i in range(7, N, 20):
        words[i] = f"say: {words[0]}"
    add_data(tmp_path / "s", "pool", [{"prompt": text, "completion": "yes", "source": "ab"[i % 2]}
                                      for i, text in enumerate(words)])  # fmt: skip
    add_data(tmp_path / "s", "domain", [{"prompt": text, "completion": "no"} for text in words[:3]])
    vectors = draw.normal(size=(N, 6))
    vectors[4::5] = vectors[3::5] + 0.01
    add_features(tmp_path / "s", "pool", vectors)
    add_features(tmp_path / "s", "domain", draw.normal(size=(3, 6)))
    (tmp_path / "test.jsonl").write_text(json.dumps({"prompt": words[0], "completion": "x"}) + "\n")
    score(tmp_path / "s", pool="pool", domain="domain", method="cosine", feature="embed", name="x")
    return tmp_path / "s"


def rows_of(path: Path, made: SelectResult) -> list[int]:
    return [int(row) for row in open_store(path).get(made.artefact).read("row")]


@pytest.mark.parametrize(
    "limits",
    [
        {"dedup": "exact"},
        {"dedup": "minhash"},
        {"dedup": "0.99"},
        {"dedup": "minhash", "against": True},
        {"against": True, "max_per_source": ("60%",)},
        {"against": True, "must_include": True},
        {"dedup": "0.99", "min_per_source": ("a=5",)},
        {"dedup": "exact", "max_per_source": ("a=12", "b=0")},
    ],
)
def test_the_choice_is_that_of_all_rows(limits: dict, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "against" in limits:
        limits = limits | {"against": (path.parent / "test.jsonl",)}
    if "must_include" in limits:
        pool = [json.loads(line) for line in (path.parent / "pool.jsonl").read_text().splitlines()]
        (path.parent / "yes.jsonl").write_text(json.dumps(pool[290]) + "\n")
        limits = limits | {"must_include": (path.parent / "yes.jsonl",)}
    whole = rows_of(path, select(path, score="x", n=CHOSEN, name="whole", constraints=Constraints(**limits)))
    monkeypatch.setattr(filter_and_choose, "LEAST_LOOK", CHOSEN)
    monkeypatch.setattr(filter_and_choose, "MORE", 1.3)
    some = rows_of(path, select(path, score="x", n=CHOSEN, name="some", constraints=Constraints(**limits)))
    assert some == whole
    assert len(some) == CHOSEN


def test_only_the_best_rows_are_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    texts_of = leaks.texts_of
    monkeypatch.setattr(
        leaks, "texts_of", lambda stored, data, rows: read.append(len(rows)) or texts_of(stored, data, rows)
    )
    against = (path.parent / "test.jsonl",)
    monkeypatch.setattr(filter_and_choose, "LEAST_LOOK", 20)
    select(path, score="x", n=4, name="few", constraints=Constraints(against=against))
    assert read == [20]
    read.clear()
    select(path, score="x", n=4, name="all", constraints=Constraints(against=against, leaks="report"))
    assert read == [N]
    read.clear()
    with pytest.raises(UsageError, match="-n 290"):
        select(path, score="x", n=290, name="many", constraints=Constraints(against=against))
    assert read == [N]


@pytest.mark.parametrize("method", ["herding", "coverage", "ot", "round-robin"])
def test_candidates_are_the_best_that_pass(method: str, path: Path) -> None:
    limits = Constraints(candidates=20, against=(path.parent / "test.jsonl",))
    made = select(path, score="x", n=5, name=method, method=method, constraints=limits)
    values = open_store(path).get("scores/x").read("score")
    clean = [row for row in np.argsort(-values, kind="stable") if row != 0 and row % 20 != 7]
    assert set(rows_of(path, made)) <= set(clean[:20])
    assert open_store(path).get(made.artefact).spec["candidates"] == 20


def test_herding_of_candidates_by_hand(path: Path) -> None:
    made = select(path, score="x", n=5, name="h", method="herding", constraints=Constraints(candidates=30))
    stored = open_store(path)
    best = np.sort(np.argsort(-stored.get("scores/x").read("score"), kind="stable")[:30])
    unit = stored.get("features/pool/embed").read("embedding")[best].astype(np.float32)
    domain = stored.get("features/domain/embed").read("embedding").astype(np.float64)
    chooser = Chooser(Limits(source=np.zeros(30, dtype=np.int64), n=5))
    choose_by_herding(chooser, unit, domain.mean(axis=0))
    assert rows_of(path, made) == best[chooser.taken].tolist()


@pytest.mark.parametrize("method", ["herding", "coverage", "ot"])
def test_too_many_candidates_are_refused_before_work(method: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selectors, "UNASKED_BYTES", 1000)
    monkeypatch.setattr(filter_and_choose, "find_leaks", None)  # would fail if it were called
    limits = {"against": (path.parent / "test.jsonl",)}
    with pytest.raises(UsageError, match=r"300 candidates needs .* GiB of memory") as refused:
        select(path, score="x", n=5, name="y", method=method, constraints=Constraints(**limits))
    assert "--candidates N" in refused.value.fix
    monkeypatch.undo()
    assert select(path, score="x", n=5, name="y", method=method, constraints=Constraints(candidates=200)).rows == 5


def test_candidates_that_mean_nothing(path: Path) -> None:
    with pytest.raises(UsageError, match="--candidates 9: --method top"):
        select(path, score="x", n=5, name="y", constraints=Constraints(candidates=9))
    with pytest.raises(UsageError, match="--candidates 3 is less than -n 5"):
        select(path, score="x", n=5, name="y", method="herding", constraints=Constraints(candidates=3))


def test_vectors_taken_are_kept_once() -> None:
    """--dedup COSINE against a plain loop, over more rows than the first array of vectors holds."""
    draw = np.random.default_rng(2)
    unit = draw.normal(size=(900, 5)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    chooser = Chooser(Limits(source=np.zeros(900, dtype=np.int64), n=900, tau=0.995, vectors=unit))
    taken: list[int] = []
    for row in range(900):
        alike = any(float(unit[row].astype(np.float64) @ unit[other]) > 0.995 for other in taken)
        assert chooser.take(row, 0.0) is not alike
        if not alike:
            taken.append(row)
    assert chooser.taken == taken
    assert 256 < len(taken) < 900
