"""`ntksel arms`: several sizes, an oracle, equal tokens, early stopping; what the result says about them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

import store
from ntkcli.statistics import ArmScore
from ntkcli.statistics.arm_scores import Difference
from ntkcli.statistics.learning import choice_nats
from ntkcli.steps.pipelines.arms_learning import oracle_sentence
from tests.commands.conftest import Cli
from tests.conftest import Writer, choice_rows, prompt_rows


@pytest.fixture
def options(model_dir: Path, write_jsonl: Writer) -> list[str | Path]:
    pool = [{**row, "source": "ab"[i % 2]} for i, row in enumerate(prompt_rows(40, seed=1))]
    files = {
        "--pool": write_jsonl("pool.jsonl", pool),
        "--domain": write_jsonl("domain.jsonl", prompt_rows(4, seed=2)),
        "--task": write_jsonl("test.jsonl", choice_rows(12)),
    }
    on: list[str | Path] = ["--model", model_dir, "--max-length", "96", "--epochs", "1", "--draws", "1"]
    return [*(word for pair in files.items() for word in pair), *on]


def test_sizes_and_an_oracle(cli: Cli, tmp_path: Path, options: list[str | Path]) -> None:
    place = tmp_path / "s"
    words = [*options, "--arms", "base,domain,domain-steps,random", "--oracle", "source=a", "--sizes", "4,8"]
    ran = cli("arms", place, *words, "--json")
    assert ran.code == 0, ran.err
    found, stored = json.loads(ran.out), store.Store.open(place)
    for n in (4, 8):
        rows = stored.get(f"selections/oracle-n{n}-s0").read("row")
        assert (len(rows), set(rows % 2)) == (n, {0})  # every second row of the pool is of source a
        spent = {arm: found["spent"][f"{arm}-n{n}"] for arm in ("random", "oracle", "domain-steps")}
        assert len({each["steps"] for each in spent.values()}) == 1
        assert [spent[arm]["rows"] for arm in ("random", "oracle", "domain-steps")] == [n, n, 0]
    for run in ("domain.s0", "random-n4.s0", "oracle-n8.s0"):
        spec = stored.get(f"runs/{run}").spec
        assert (spec["train"][0]["times"], spec["loss_per"]) == (2, "row")  # 4 domain rows, 8 of the pool at most
    assert [each["n"] for each in found["by_size"]] == [4, 8]
    assert [each["baseline"] for each in found["by_size"]] == ["random-n4", "random-n8"]
    values = {score["arm"]: score["value"] for each in found["by_size"] for score in each["scores"]}
    for point in found["curve"]:
        gain = values[f"{point['arm']}-n{point['n']}"] - values[f"random-n{point['n']}"]
        assert point["gain"] == (None if point["arm"] == "random" else pytest.approx(gain))
    said = [text for text in found["sentences"] if "no score could" in text or "there is a gain to find" in text]
    assert len(said) == 2
    lines = list(csv.DictReader(io.StringIO((place / "reports/arms.csv").read_text())))
    assert {line["size"] for line in lines} == {"4", "8"}
    shown = cli("arms", place, *words, "--plot", tmp_path / "arms.svg")
    assert shown.code == 0, shown.err
    assert b"8 rows, test" in (tmp_path / "arms.svg").read_bytes()
    assert "gain over the baseline with the same number of rows" in shown.out


def test_equal_tokens_and_early_stopping(cli: Cli, tmp_path: Path, options: list[str | Path]) -> None:
    place = tmp_path / "s"
    words = [*options, "-n", "8", "--arms", "random,bm25", "--equalise", "tokens", "--hold-out", "0.3"]
    ran = cli("arms", place, *words, "--patience", "1", "--json")
    assert ran.code == 0, ran.err
    stored = store.Store.open(place)
    tokens = stored.get("features/pool/embed").read("tokens")
    budget, took = (tokens[stored.get(f"selections/{name}").read("row")].sum() for name in ("random-s0", "bm25"))
    assert len(stored.get("selections/random-s0").read("row")) == 8
    assert budget - tokens.max() < took <= budget
    for run in ("random.s0", "bm25.s0"):
        spec = stored.get(f"runs/{run}").spec
        assert (spec["hold_out"], spec["patience"], spec["hold_out_of"]) == (0.3, 1, 0)  # of the domain
        assert stored.get(f"runs/{run}").attrs["held_out"] == 1
    assert stored.get("runs/warmup").spec["hold_out"] == 0
    ran = cli("arms", place, *words, "--average-weights", "--prefix", "x-", "--dry-run")
    assert (ran.code, "--average-weights keeps the mean" in ran.error_line) == (2, True)


@pytest.mark.parametrize(
    ("oracle", "told"),
    [("source=c", "--oracle source=c: the pool has no rows of 'c'. Its sources are: a, b"),
     ("source=a", "the pool has 20 rows of it, and 30 are to be drawn"),
     ("none.jsonl", "--oracle none.jsonl: no such file")],
)  # fmt: skip
def test_an_oracle_that_can_not_be_is_refused_first(
    oracle: str, told: str, cli: Cli, tmp_path: Path, options: list[str | Path]
) -> None:
    ran = cli("arms", tmp_path / "s", *options, "-n", "30", "--oracle", oracle)
    assert ran.code == 2
    assert told in ran.error_line
    assert not (tmp_path / "s").exists()


def test_nats_of_the_right_choice_are_a_log_softmax() -> None:
    values = np.array([[-900.0, -901.0, np.nan], [-3.0, -1.0, -2.0]])
    expected = [-log_softmax(values[0, :2])[1], -log_softmax(values[1])[0]]
    np.testing.assert_allclose(choice_nats(values, np.array([1, 0])), expected)


@pytest.mark.parametrize(
    ("accuracy", "nats", "beats"),
    [((0.01, 0.05), None, True), ((-0.02, 0.05), (-0.2, -0.1), True), ((-0.02, 0.05), (-0.2, 0.1), False),
     ((-0.05, -0.02), (0.1, 0.2), False)],
)  # fmt: skip
def test_the_oracle_beats_by_its_measure_or_by_log_loss(
    accuracy: tuple[float, float], nats: tuple[float, float] | None, beats: bool
) -> None:
    def difference(ends: tuple[float, float]) -> Difference:
        return Difference(sum(ends) / 2, *ends, 0.5, 0.5, "bootstrap")

    score = ArmScore("oracle", "t", 0.5, 0.4, 0.6, 9, {"0": 0.5}, None, difference(accuracy))
    said = oracle_sentence(score, difference(nats) if nats else None, oracle="oracle", random="random")
    assert ("no score could" not in said) == beats
