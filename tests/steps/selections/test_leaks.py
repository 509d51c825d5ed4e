"""Planted test items are found, templates and other rows are not; and evals make the search the default."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import store
from ntkcli.api import score
from ntkcli.errors import NtkselError
from ntkcli.selection.leaks import MOST_ITEMS, TestItems
from ntkcli.steps.selections.select import Constraints, select
from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli, cli
from tests.scoring.kit import add_data

__all__ = ["cli"]

TEMPLATE = "answer the question below with yes or no and nothing else"


def sentence(seed: int, words: int = 14) -> str:
    return " ".join(f"w{w}" for w in np.random.default_rng(seed).integers(0, 9999, words))


def test_eight_words_in_a_row_are_a_leak_and_seven_are_not() -> None:
    items = TestItems([sentence(0), sentence(1)])
    words = sentence(1).split()
    found = items.find("before, " + " ".join(words[3:11]).upper() + "! after")
    assert found is not None
    assert (found.item, found.shared) == (1, " ".join(words[3:11]))
    assert items.find("before " + " ".join(words[3:10]) + " after") is None
    assert TestItems([]).find("anything at all") is None


def test_short_texts_must_be_the_same() -> None:
    items = TestItems(["What is a lien?", "yes"])
    found = items.find("what is a LIEN")
    assert found is not None
    assert found.item == 0
    assert items.find("what is a lien for") is None
    assert items.find("") is None


def test_near_duplicates_without_eight_common_words() -> None:
    words = sentence(2, 70).split()
    base = " ".join(words)
    changed = " ".join("x" if i % 7 == 6 else w for i, w in enumerate(words))
    assert TestItems([base]).find(changed) is None  # Jaccard of about 0.4
    short = "a b c d e f g"  # 7 words: never 8 in a row, but the same shingles
    assert TestItems([short]).find("g a b c d e f g") is not None


def test_a_template_is_no_leak() -> None:
    few, many = (TestItems([f"{TEMPLATE} {sentence(i)}" for i in range(n)]) for n in (MOST_ITEMS, MOST_ITEMS + 1))
    assert few.find(f"{TEMPLATE} {sentence(99)}") is not None
    assert many.find(f"{TEMPLATE} {sentence(99)}") is None
    assert many.find(f"{TEMPLATE} {sentence(4)}") is not None


@pytest.fixture
def leaky(tmp_path: Path) -> tuple[Path, Path]:
    """A store whose pool of 40 rows holds the test items 0, 1 and 2 in rows 0, 10 and 20."""
    path, test = tmp_path / "s", tmp_path / "test.jsonl"
    items = [{"id": f"t{i}", "prompt": f"{sentence(i)}?", "choices": ["yes", "no"], "answer": 0} for i in range(5)]
    test.write_text("".join(json.dumps(item) + "\n" for item in items))
    rows = [{"id": f"p{i}", "prompt": sentence(100 + i), "completion": "maybe"} for i in range(40)]
    for item, row in enumerate((0, 10, 20)):
        rows[row]["prompt"] = f"Read this: {sentence(item)} Now say it."
    add_data(path, "pool", rows)
    score(path, pool="pool", method="random", name="r")
    return path, test


def rows_of(path: Path, name: str) -> set[int]:
    return {int(row) for row in open_store(path).get(f"selections/{name}").read("row")}


def test_leaks_are_left_out_and_reported(leaky: tuple[Path, Path]) -> None:
    path, test = leaky
    result = select(path, score="r", n=37, name="y", constraints=Constraints(against=(test,)))
    assert rows_of(path, "y") == set(range(40)) - {0, 10, 20}
    assert result.removed == {"--against": 3}
    report = [json.loads(line) for line in (path / "reports/y-leaks.jsonl").read_text().splitlines()]
    assert [(pair["row_id"], pair["test_id"]) for pair in report] == [("p0", "t0"), ("p10", "t1"), ("p20", "t2")]
    with pytest.raises(NtkselError, match=r"constraints leave 37 \(--against took 3\)"):
        select(path, score="r", n=38, name="z", constraints=Constraints(against=(test,)))
    select(path, score="r", n=40, name="w", constraints=Constraints(against=(test,), leaks="report"))
    assert len(rows_of(path, "w")) == 40
    assert (path / "reports/w-leaks.jsonl").read_text() == (path / "reports/y-leaks.jsonl").read_text()


def test_evals_make_it_the_default_and_finished_selections_stand(leaky: tuple[Path, Path]) -> None:
    path, test = leaky
    select(path, score="r", n=40, name="before")
    stored = open_store(path)
    stored.create(
        "evals/e/base",
        kind="eval",
        spec={"x": 1},
        parents={},
        n=1,
        part_rows=1,
        arrays={"loglik": store.ArraySpec("float64")},
        attrs={"files": [str(test), str(test.parent / "gone.jsonl")]},
    )
    select(path, score="r", n=40, name="before")
    select(path, score="r", n=30, name="after")
    assert not {0, 10, 20} & rows_of(path, "after")
    select(path, score="r", n=40, name="ignored", constraints=Constraints(leaks="ignore"))
    with pytest.raises(NtkselError, match="37"):
        select(path, score="r", n=40, name="now")
    with pytest.raises(NtkselError, match="no such file"):
        select(path, score="r", n=4, name="x", constraints=Constraints(against=(Path("gone.jsonl"),)))


def test_command_line(leaky: tuple[Path, Path], cli: Cli) -> None:
    path, test = leaky
    ran = cli("select", path, "--score", "r", "-n", "37", "--name", "y", "--against", test)
    assert ran.code == 0, ran.err
    assert "3 rows that hold test items left out" in ran.err
    assert str(path / "reports" / "y-leaks.jsonl") in ran.err
    ran = cli("select", path, "--score", "r", "-n", "4", "--name", "z", "--against", test, "--leaks", "ignore")
    assert ran.code == 2
