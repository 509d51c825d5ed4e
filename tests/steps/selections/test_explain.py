"""Explanations against the dense reference, for chosen rows, others, and scores without features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ntkcli.api import score
from ntkcli.errors import NtkselError
from ntkcli.steps.selections.explain import explain
from ntkcli.steps.selections.select import Constraints, select
from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli, cli
from tests.scoring.kit import cosines, make_store

__all__ = ["cli"]


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, np.ndarray]:
    path, pool, domain = make_store(tmp_path)
    score(path, pool="pool", domain="domain", method="votes", feature="embed", k=7, name="stage1")
    score(path, pool="pool", domain="domain", method="cosine", feature="embed", centre=True, name="stage2")
    select(path, score="stage2", n=10, method="herding", name="y", explain=True)
    return path, cosines(domain, pool, centre_on=np.delete(pool, 5, axis=0))


def test_a_chosen_row(made: tuple[Path, np.ndarray]) -> None:
    path, similar = made
    selection = open_store(path).get("selections/y")
    row = int(selection.read("row")[3])
    found = explain(path, selection="y", row=f"1-{row}")
    assert (found.row, found.rank, found.source, found.displaced_by) == (row, 4, "abc"[row % 3], None)
    assert found.gain == pytest.approx(float(selection.read("gain")[3]))
    best = np.argsort(-similar[:, row])[:3]
    assert [near.row_id for near in found.nearest] == [f"2-{i}" for i in best]
    np.testing.assert_allclose([near.similarity for near in found.nearest], similar[best, row], atol=1e-5)
    by_name = {each.score: each for each in found.scores}
    mean = np.delete(similar.mean(axis=0), 5)
    assert by_name["stage2"].rank == 1 + (mean > similar.mean(axis=0)[row]).sum()
    assert by_name["stage2"].scored == 59
    assert by_name["stage1"].value == open_store(path).get("scores/stage1").read("score")[row]


def test_rows_that_were_not_chosen(made: tuple[Path, np.ndarray]) -> None:
    path, _ = made
    chosen = open_store(path).get("selections/y").read("row")
    other = next(row for row in range(60) if row not in chosen and row != 5)
    found = explain(path, selection="y", row=str(other))
    assert (found.rank, found.gain, found.displaced_by) == (None, None, f"1-{chosen[-1]}")
    without = explain(path, selection="y", row="1-5")
    assert without.nearest == ()
    assert (without.why_not, without.displaced_by) == ("it has no score", None)
    assert all(each.rank is None and each.value is None for each in without.scores)
    with pytest.raises(NtkselError, match="no row 'x-1'"):
        explain(path, selection="y", row="x-1")


@pytest.mark.parametrize("method", ["top", "coverage"])
def test_what_kept_a_row_out(method: str, made: tuple[Path, np.ndarray]) -> None:
    """Each constraint by itself: a row is named that breaks it, and the chosen row that stands in its place."""
    path, similar = made
    values = similar.mean(axis=0)
    values[5] = -np.inf
    best, tokens = np.argsort(-values), np.arange(60) % 7 + 1

    def chosen(name: str, n: int = 8, **limits: Any) -> np.ndarray:
        select(path, score="stage2", n=n, method=method, name=name, constraints=Constraints(**limits))
        return np.asarray(open_store(path).get(f"selections/{name}").read("row"))

    rows = chosen("quota", max_per_source=("a=1",))
    full = next(int(row) for row in best if row % 3 == 0 and row not in rows)
    found = explain(path, selection="quota", row=f"1-{full}")
    assert "--max-per-source" in str(found.why_not)
    assert found.displaced_by == f"1-{next(row for row in rows if row % 3 == 0)}"
    chosen("length", max_tokens=4)
    long = next(int(row) for row in best if tokens[row] > 4)
    found = explain(path, selection="length", row=f"1-{long}")
    assert (found.why_not, found.displaced_by) == (f"--max-tokens 4: it has {tokens[long]}", None)
    if method == "top":
        chosen("some", n=4, only=("source=b",))
        other = next(int(row) for row in best if row % 3 != 1)
        found = explain(path, selection="some", row=f"1-{other}")
        assert (found.why_not, found.displaced_by) == ("its score would do, so --only kept it out", None)
    rows = chosen("apart", n=12, dedup="0.5")
    among = similar_rows(path)
    like = next(int(row) for row in best if row not in rows and row != 5 and among[row, rows].max() > 0.5)
    found = explain(path, selection="apart", row=f"1-{like}")
    assert "--dedup 0.5" in str(found.why_not)
    assert found.displaced_by == f"1-{rows[np.argmax(among[like, rows])]}"


def similar_rows(path: Path) -> np.ndarray:
    """Cosines among the pool's centred features (60, 60)."""
    unit = open_store(path).get("features/pool/embed").read("embedding").astype(np.float64)
    return cosines(unit, unit, centre_on=np.delete(unit, 5, axis=0))


def test_the_report_has_every_row(made: tuple[Path, np.ndarray]) -> None:
    path, _ = made
    lines = [json.loads(line) for line in (path / "reports/y-why.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == open_store(path).get("selections/y").read("row").tolist()
    assert [line["rank"] for line in lines] == list(range(1, 11))
    assert all(len(line["nearest"]) == 3 for line in lines)


def test_command_line(made: tuple[Path, np.ndarray], cli: Cli) -> None:
    path, _ = made
    row = int(open_store(path).get("selections/y").read("row")[0])
    ran = cli("explain", path, "y", f"1-{row}")
    assert ran.code == 0, ran.err
    assert "rank 1, gain" in ran.out
    assert "of 59" in ran.out
    score(path, pool="pool", method="random", name="r")
    assert cli("select", path, "--score", "r", "-n", "4", "--name", "chance", "--explain").code == 0
    found = json.loads(cli("explain", path, "chance", "1-0", "--json").out)
    assert found["nearest"] == []
    assert cli("explain", path, "y", "nothing").code == 2


def test_the_lowest_as_well(made: tuple[Path, np.ndarray], cli: Cli) -> None:
    """What would harm: the domain rows that the row is least like, and the pool's rows with the lowest scores."""
    path, similar = made
    row = int(open_store(path).get("selections/y").read("row")[0])
    found = explain(path, selection="y", row=f"1-{row}", bottom=True)
    worst = np.argsort(similar[:, row])[:3]
    assert [far.row_id for far in found.farthest or ()] == [f"2-{i}" for i in worst]
    np.testing.assert_allclose([far.similarity for far in found.farthest or ()], similar[worst, row], atol=1e-5)
    values = open_store(path).get("scores/stage2").read("score")
    lowest = np.argsort(values)[:3]
    assert [(each.row, each.rank, each.value) for each in found.lowest or ()] == [
        (row, 59 - i, values[row]) for i, row in enumerate(lowest)
    ]
    rows = [json.loads(line) for line in (path.parent / "pool.jsonl").read_text().splitlines()]
    expected = [f"{rows[i]['prompt']}\n{rows[i]['completion']}" for i in lowest]
    assert [each.text for each in found.lowest or ()] == expected
    shown = cli("explain", path, "y", f"1-{row}", "--bottom").out
    assert "farthest domain rows" in shown
    assert shown.split("lowest rows of the pool")[1].splitlines()[2].split()[:2] == [f"1-{lowest[0]}", "59"]
    told = json.loads(cli("explain", path, "y", f"1-{row}", "--bottom", "--json").out)
    assert [each["row"] for each in told["lowest"]] == lowest.tolist()
    without = json.loads(cli("explain", path, "y", f"1-{row}", "--json").out)
    assert without["lowest"] is without["farthest"] is None
    assert "lowest" not in json.loads((path / "reports/y-why.jsonl").read_text().splitlines()[0])
