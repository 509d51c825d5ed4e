"""Constraints end to end: they hold, and what can't be met is refused with the reason and the number."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ntkcli.api import score
from ntkcli.errors import NtkselError
from ntkcli.selection.duplicates import NEAR, NearDuplicates, first_of_each, gram_hashes, normalised
from ntkcli.steps.selections.select import Constraints, select
from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli, cli
from tests.scoring.kit import add_data, add_features, make_store

__all__ = ["cli"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path, *_ = make_store(tmp_path)
    score(path, pool="pool", domain="domain", method="cosine", feature="embed", name="x")
    return path


def rows_of(path: Path, name: str) -> list[int]:
    return [int(row) for row in open_store(path).get(f"selections/{name}").read("row")]


@pytest.mark.parametrize("method", ["top", "round-robin", "herding", "coverage", "ot"])
def test_all_constraints_at_once(method: str, path: Path, tmp_path: Path) -> None:
    (tmp_path / "no.txt").write_text("1-0\n1-1\nunknown\n")
    (tmp_path / "yes.jsonl").write_text(json.dumps({"id": "1-30", "prompt": "p", "completion": "c"}) + "\n")
    constraints = Constraints(
        max_per_source=("10", "c=4"),
        min_per_source=("b=25%",),
        min_tokens=2,
        max_tokens=6,
        exclude=(tmp_path / "no.txt",),
        must_include=(tmp_path / "yes.jsonl",),
    )
    select(path, score="x", n=20, method=method, name="y", constraints=constraints)
    rows = rows_of(path, "y")
    sources = Counter("abc"[row % 3] for row in rows)
    assert len(rows) == 20
    assert rows[0] == 30
    assert sources["a"] <= 10
    assert sources["c"] <= 4
    assert 5 <= sources["b"] <= 10
    assert not {0, 1} & set(rows)
    assert all(2 <= row % 7 + 1 <= 6 for row in rows)


def test_token_budget_alone_and_with_n(path: Path) -> None:
    tokens = np.arange(60) % 7 + 1
    result = select(path, score="x", n=None, name="y", constraints=Constraints(token_budget=40))
    rows = rows_of(path, "y")
    assert result.rows == len(rows)
    assert 40 - 7 < tokens[rows].sum() <= 40
    assert select(path, score="x", n=3, name="z", constraints=Constraints(token_budget=40)).rows == 3


def test_minimums_hold_under_a_token_budget(path: Path) -> None:
    """Rows of 1 to 7 tokens; 4 of source a and 4 of b take 12 tokens at least, and the best rows alone far more."""
    tokens = np.arange(60) % 7 + 1
    limits = Constraints(token_budget=24, min_per_source=("a=4", "b=4"))
    for method in ("top", "round-robin", "herding", "coverage", "ot"):
        select(path, score="x", n=12, method=method, name=method, constraints=limits)
        rows = np.array(rows_of(path, method))
        assert tokens[rows].sum() <= 24
        assert ((rows % 3 == 0).sum() >= 4, (rows % 3 == 1).sum() >= 4) == (True, True)


IMPOSSIBLE = [
    (9, {"min_per_source": ("a=9",), "token_budget": 15}, r"shortest rows of 'a' .* --token-budget's 15 tokens"),
    (40, {"max_per_source": ("12",)}, "leaves 36 of 59 rows, 4 too few"),
    (10, {"max_per_source": ("a=2",), "min_per_source": ("a=3",)}, "asks for 3 rows of 'a', --max-per-source allows 2"),
    (10, {"min_per_source": ("4",)}, "adds up to 12 rows, -n is 10"),
    (30, {"min_per_source": ("a=25",)}, "asks for 25 rows of 'a', which has 20: 5 too few"),
    (10, {"max_per_source": ("d=2",)}, "no source 'd'"),
    (10, {"max_per_source": ("many",)}, "many is not a valid number"),
    (10, {"max_per_source": ("1.5",)}, "more than all"),
    ("auto", {"max_per_source": ("0.1",)}, "not fixed"),
    (50, {"max_tokens": 5}, r"59 scored rows of 60, of which constraints leave 44 \(.*--max-tokens took 15"),
    (10, {"dedup": "2"}, "--dedup 2 is not known"),
    (None, {}, "-n is missing"),
]


@pytest.mark.parametrize(("n", "constraints", "text"), IMPOSSIBLE)
def test_what_cannot_be_met_is_refused(n: object, constraints: dict[str, object], text: str, path: Path) -> None:
    with pytest.raises(NtkselError, match=text):
        select(path, score="x", n=n, name="y", constraints=Constraints(**constraints))  # type: ignore[arg-type]
    assert open_store(path).find("selections/y") is None


def test_must_include_that_cannot_be(path: Path, tmp_path: Path) -> None:
    for text, reason in (("1-5\n", "no score"), ("nothing\n1-3\n", "no row with the id 'nothing'")):
        (tmp_path / "yes.txt").write_text(text)
        with pytest.raises(NtkselError, match=reason):
            select(path, score="x", n=5, name="y", constraints=Constraints(must_include=(tmp_path / "yes.txt",)))
    (tmp_path / "yes.txt").write_text("1-0\n1-3\n")
    both = Constraints(must_include=(tmp_path / "yes.txt",), max_per_source=("a=1",))
    with pytest.raises(NtkselError, match="--must-include break a quota"):
        select(path, score="x", n=5, name="y", constraints=both)


def test_score_without_features_needs_them_named(path: Path) -> None:
    score(path, pool="pool", method="random", name="r")
    with pytest.raises(NtkselError, match="--feature NAME and --domain DATA"):
        select(path, score="r", n=5, method="herding", name="y")
    assert select(path, score="r", n=5, method="herding", name="y", feature="embed", domain=["domain"]).rows == 5


LONG = "what does the notice in the licence say about the warranty of the software and its use without a grant "


def test_near_duplicates_are_found_and_others_are_not() -> None:
    words = normalised(LONG * 2)
    changed = " ".join([*words[:-1], "else"])
    half = " ".join([*words[:15], *map(str, range(25))])
    assert first_of_each([(0, LONG * 2), (1, changed), (2, half)], range(3), near=True) == ([0, 2], [(1, 0)])
    assert first_of_each([(0, "A b, c!"), (1, "a B c"), (2, "a b")], range(3), near=False) == ([0, 2], [(1, 0)])


def test_near_duplicates_against_jaccard() -> None:
    draw = np.random.default_rng(0)
    base = [str(w) for w in draw.integers(0, 1000, 80)]
    texts = []
    for share in np.linspace(0, 0.3, 60):
        words = [w if draw.random() > share else "x" for w in base]
        texts.append(" ".join(words))
    index = NearDuplicates()
    index.add(" ".join(base))
    of_base = set(gram_hashes(base, 3).tolist())
    for text in texts:
        grams = set(gram_hashes(normalised(text), 3).tolist())
        jaccard = len(grams & of_base) / len(grams | of_base)
        assert (index.find(text) == 0) == (jaccard >= NEAR), jaccard


@pytest.mark.parametrize("dedup", ["exact", "minhash"])
def test_dedup_keeps_the_best_of_each(dedup: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    words = np.random.default_rng(2).integers(0, 999, (10, 40)).astype(str)
    rows = [{"prompt": " ".join(words[i]) + f" a{i}", "completion": "yes"} for i in range(10)]
    change = " and so" if dedup == "minhash" else "!"
    copies = [{**row, "prompt": row["prompt"].upper() + change} for row in rows[:5]]
    add_data(path, "pool", [*rows, *copies])
    add_data(path, "domain", rows[:2])
    draw = np.random.default_rng(1)
    add_features(path, "pool", draw.normal(size=(15, 4)))
    add_features(path, "domain", draw.normal(size=(2, 4)))
    score(path, pool="pool", domain="domain", method="cosine", feature="embed", name="x")
    result = select(path, score="x", n=8, name="y", constraints=Constraints(dedup=dedup))
    values = open_store(path).get("scores/x").read("score")
    best = [max((i, i + 10), key=lambda j: values[j]) if i < 5 else i for i in range(10)]
    assert rows_of(path, "y") == sorted(best, key=lambda j: -values[j])[:8]
    assert result.removed == {f"--dedup {dedup}": 5}


def test_command_line(path: Path, cli: Cli) -> None:
    ran = cli("select", path, "--score", "x", "-n", "9", "--name", "y", "--method", "coverage", "--exponent", "0.4",
              "--max-per-source", "4", "--min-per-source", "a=3", "--dedup", "0.99", "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["rows"] == 9
    assert max(json.loads(ran.out)["sources"].values()) <= 4
    again = cli("select", path, "--score", "x", "-n", "9", "--name", "y", "--method", "coverage")
    assert again.code == 12
    assert "max_per_source" in again.error_line
    assert cli("select", path, "--score", "x", "-n", "nine", "--name", "z").code == 2
    assert cli("select", path, "--score", "x", "--token-budget", "30", "--name", "z").code == 0
