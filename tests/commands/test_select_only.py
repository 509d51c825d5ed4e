"""`select --only` and `--match-tokens`: rows of a list or of a source; as many tokens as another selection."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import store
from tests.commands.conftest import Cli
from tests.conftest import Writer, prompt_rows

ROWS = [{**row, "source": "abc"[i % 3], "id": f"r{i}"} for i, row in enumerate(prompt_rows(30, seed=1))]


@pytest.fixture
def scored(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> Path:
    pool, place = write_jsonl("pool.jsonl", ROWS), tmp_path / "s"
    assert cli("featurize", place, "--data", pool, "--name", "pool", "--kind", "embed", "--model", model_dir).code == 0
    assert cli("score", place, "--pool", "pool", "--method", "random", "--name", "random").code == 0
    return place


def chosen(place: Path, name: str) -> list[int]:
    found: list[int] = store.Store.open(place).get(f"selections/{name}").read("row").tolist()
    return found


def test_only_these_rows_by_score(cli: Cli, tmp_path: Path, scored: Path, write_jsonl: Writer) -> None:
    values = store.Store.open(scored).get("scores/random").read("score")
    few = write_jsonl("few.jsonl", [ROWS[i] for i in (1, 4, 6, 9, 22)])
    (tmp_path / "ids.txt").write_text("r1\nr4\nr6\nr9\nr22\n")
    by_source = [i for i in range(30) if i % 3 in (0, 2)]
    cases = {"file": ([few], [1, 4, 6, 9, 22]), "ids": ([tmp_path / "ids.txt"], [1, 4, 6, 9, 22])}
    cases |= {"source": (["source=a,c"], by_source), "both": ([few, "source=a,c"], sorted({1, 4, 22, *by_source}))}
    for name, (only, allowed) in cases.items():
        words = [word for each in only for word in ("--only", each)]
        ran = cli("select", scored, "--score", "random", "-n", "4", *words, "--name", name)
        assert ran.code == 0, ran.err
        assert chosen(scored, name) == sorted(allowed, key=lambda i: -values[i])[:4]
    ran = cli("select", scored, "--score", "random", "-n", "6", "--only", few, "--name", "x")
    assert (ran.code, "--only took 25" in ran.error_line) == (2, True)
    ran = cli("select", scored, "--score", "random", "-n", "4", "--only", "source=d", "--name", "x")
    assert ran.code == 2
    assert "--only source=d: 0 rows; datasets/pool has no rows of the source 'd'. Its sources are: a, b" in ran.err


def test_as_many_tokens_as_a_selection(cli: Cli, scored: Path) -> None:
    assert cli("select", scored, "--score", "random", "-n", "7", "--only", "source=a", "--name", "seven").code == 0
    on = ["select", scored, "--score", "random", "--only", "source=b,c", "--name", "like", "--json"]
    ran = cli(*on, "--match-tokens", "seven")
    assert ran.code == 0, ran.err
    tokens = store.Store.open(scored).get("features/pool/embed").read("tokens")
    budget, took = tokens[chosen(scored, "seven")].sum(), tokens[chosen(scored, "like")].sum()
    left = np.setdiff1d([i for i in range(30) if i % 3], chosen(scored, "like"))
    assert took <= budget < took + tokens[left].min()
    assert json.loads(ran.out)["rows"] == len(chosen(scored, "like"))
    assert cli(*on, "--match-tokens", "seven").code == 0
    ran = cli(*on, "--match-tokens", "seven", "--token-budget", "9")
    assert (ran.code, "--match-tokens and --token-budget both" in ran.error_line) == (2, True)
    assert cli(*on[:-3], "--name", "y", "--match-tokens", "none").code == 10
