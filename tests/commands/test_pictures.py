"""Small pictures in the terminal, the mix of sources, and `--plot` of eval and score --compare."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ntkcli.console import BLOCKS
from ntkcli.steps.scores.histogram import BINS, histogram
from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli
from tests.conftest import Writer, choice_rows, prompt_rows

DRAWN = re.compile(f"[{BLOCKS[1:]}]")


@pytest.fixture
def scored(cli: Cli, tmp_path: Path, write_jsonl: Writer) -> Path:
    pool = [{**row, "source": "abbbcdefg"[i % 9]} for i, row in enumerate(prompt_rows(90, seed=1))]
    place = tmp_path / "s"
    for name, seed in (("one", "0"), ("other", "1")):
        words = ["--pool", f"pool={write_jsonl('pool.jsonl', pool)}", "--method", "random", "--seed", seed]
        assert cli("score", place, *words, "--name", name).code == 0
    return place


def test_histograms_are_for_terminals_that_are_wide_enough(
    cli: Cli, scored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not DRAWN.search(cli("info", scored).out)  # no terminal
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    assert not DRAWN.search(cli("info", scored).out)
    monkeypatch.setenv("COLUMNS", "100")
    shown = cli("info", scored).out
    lines = [line for line in shown.splitlines() if DRAWN.search(line)]
    assert len(lines) == 2
    assert "\x1b[36m" in lines[0]
    monkeypatch.setenv("NO_COLOR", "1")
    plain = [line for line in cli("info", scored).out.splitlines() if DRAWN.search(line)]
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines] == plain
    assert not DRAWN.search(cli("info", scored, "--json").out)
    assert DRAWN.search(cli("score", scored, "--pool", "pool", "--method", "random", "--name", "one").out)
    assert not DRAWN.search(cli("score", scored, "--pool", "pool", "--method", "random", "--name", "one", "--json").out)
    values = open_store(scored).get("scores/one").read("score")
    found = histogram(scored, "one")
    assert found is not None
    expected, _ = np.histogram(values, bins=BINS)
    assert found.counts == tuple(expected)
    blocks = plain[0].split(f"{found.low:.4g} ")[1][:BINS]
    assert blocks[int(np.argmax(expected))] == "█"
    assert [char == " " for char in blocks] == [count == 0 for count in expected]


def test_the_mix_of_sources_before_and_after(cli: Cli, scored: Path, write_jsonl: Writer) -> None:
    ran = cli("select", scored, "--score", "one", "-n", "10", "--only", "source=b", "--name", "b")
    assert ran.code == 0, ran.err
    assert re.search(r"^b +30 +33\.3% +10 +100\.0% +3\.00$", ran.out, re.MULTILINE)
    assert re.search(r"^a +10 +11\.1% +0 +0\.0% +0\.00$", ran.out, re.MULTILINE)
    assert re.search(r"^2 others +20 +22\.2% +0 +0\.0% +0\.00$", ran.out, re.MULTILINE)
    assert '"pool_sources": {"b": 30' in cli("select", scored, "--score", "one", "-n", "10", "--only", "source=b",
                                             "--name", "b", "--json").out  # fmt: skip
    plain = write_jsonl("plain.jsonl", prompt_rows(9))
    assert cli("score", scored, "--pool", f"plain={plain}", "--method", "random", "--name", "p").code == 0
    assert "before and after" not in cli("select", scored, "--score", "p", "-n", "2", "--name", "p").out


def test_plots_of_comparisons(cli: Cli, tmp_path: Path, scored: Path, model_dir: Path, write_jsonl: Writer) -> None:
    picture = tmp_path / "agree.svg"
    ran = cli("score", scored, "--compare", "one", "--compare", "other", "--plot", picture)
    assert ran.code == 0, ran.err
    assert b"rank by one" in picture.read_bytes()
    ran = cli("score", scored, "--pool", "pool", "--method", "random", "--name", "x", "--plot", picture)
    assert (ran.code, "--plot is for --compare" in ran.error_line) == (2, True)
    test = write_jsonl("test.jsonl", choice_rows(4))
    words = ["--model", model_dir, "--run", "base", "--task", test, "--name", "e"]
    ran = cli("eval", scored, *words, "--plot", tmp_path / "eval.svg")
    assert ran.code == 0, ran.err
    assert b"95% intervals" in (tmp_path / "eval.svg").read_bytes()
    ran = cli("eval", scored, *words, "--plot", test)
    assert (ran.code, "its ending is not known" in ran.error_line) == (2, True)
