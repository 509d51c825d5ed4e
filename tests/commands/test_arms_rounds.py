"""`ntksel arms --rounds`: train, choose among what is left, train again; killed in a round and given again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import store
from tests.commands.conftest import Cli
from tests.commands.test_kill import tree
from tests.conftest import Writer, choice_rows, prompt_rows

N, COARSE = 7, 20


@pytest.fixture
def options(model_dir: Path, write_jsonl: Writer) -> list[str | Path]:
    files = {
        "--pool": write_jsonl("pool.jsonl", prompt_rows(30, seed=1)),
        "--domain": write_jsonl("domain.jsonl", prompt_rows(5, seed=2)),
        "--task": write_jsonl("test.jsonl", choice_rows(6)),
    }
    on: list[str | Path] = ["--model", model_dir, "--max-length", "96", "--epochs", "1", "--dim", "64", "-n", str(N)]
    arms = ["--arms", "random,selected", "--rounds", "3", "--draws", "1", "--coarse", str(COARSE), "--rank", "2"]
    return [*(word for pair in files.items() for word in pair), *on, *arms]


def test_rounds_choose_among_what_is_left_and_a_kill_changes_nothing(
    cli: Cli, tmp_path: Path, options: list[str | Path]
) -> None:
    place = tmp_path / "s"
    ran = cli("arms", place, *options, "--json")
    assert ran.code == 0, ran.err
    found, stored = json.loads(ran.out), store.Store.open(place)
    rows = [stored.get(f"selections/round{i}").read("row") for i in (1, 2, 3)]
    assert [len(each) for each in rows] == [3, 2, 2]
    assert len(np.unique(np.concatenate(rows))) == N
    coarse = set(stored.get("selections/coarse").read("row").tolist())
    taken: set[int] = set()
    for number, own in enumerate(rows[:-1], start=2):
        taken |= set(own.tolist())
        assert set(stored.get(f"selections/left{number}").read("row").tolist()) == coarse - taken
        scored = np.flatnonzero(~np.isnan(stored.get(f"scores/round{number}").read("score")))
        assert set(scored.tolist()) == coarse - taken  # only what is left was featurized and scored
        best = stored.get(f"scores/round{number}").read("score")
        assert set(rows[number - 1].tolist()) == set(np.argsort(-np.nan_to_num(best, nan=-9.0))[:2].tolist())
    assert (
        stored.get("scores/round2").read("score")[rows[1]] != stored.get("scores/stage2").read("score")[rows[1]]
    ).all()
    spent = found["spent"]
    assert spent["rounds"]["rows"] == spent["selected"]["rows"] == N
    assert spent["rounds"]["steps"] == spent["selected"]["steps"]
    picked = stored.get("selections/picked").read("row")
    assert [one["also_selected"] for one in found["rounds"]] == [int(np.isin(own, picked).sum()) for own in rows]
    assert [one["adapter"] for one in found["rounds"]] == ["warmup", "after-round1", "after-round2"]
    assert any(
        text.startswith("rounds: ") and "of the 7 rows chosen in 3 rounds" in text for text in found["sentences"]
    )
    again = cli("arms", place, *options)
    assert again.code == 0, again.err
    assert "selections/round3 is finished already" in again.err

    command = [sys.executable, "-m", "ntkcli", "arms", *map(str, [tmp_path / "killed", *options])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    round_two = tmp_path / "killed/arrays.zarr/features/pool/ntk-round2"
    while process.poll() is None and not round_two.exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), stderr
    resumed = cli("arms", tmp_path / "killed", *options, "--json")
    assert resumed.code == 0, resumed.err
    old, new = tree(place), tree(tmp_path / "killed")
    assert old.keys() == new.keys()
    for name in old.keys() - {"reports/arms.json"}:  # which has the commands, and so the store's place
        assert new[name] == old[name], name
    keys = ("scores", "sentences", "spent", "rounds")
    resumed_result = json.loads(resumed.out)
    assert {key: resumed_result[key] for key in keys} == {key: found[key] for key in keys}


def test_a_selection_is_a_list_for_exclude_must_include_and_only(cli: Cli, tmp_path: Path, write_jsonl: Writer) -> None:
    place = tmp_path / "s"
    pool = write_jsonl("pool.jsonl", prompt_rows(10, seed=1))
    assert cli("score", place, "--pool", f"pool={pool}", "--method", "random", "--name", "r").code == 0
    assert cli("select", place, "--score", "r", "-n", "4", "--name", "first").code == 0

    def chosen(name: str, *words: str) -> set[int]:
        ran = cli("select", place, "--score", "r", "--name", name, *words)
        assert ran.code == 0, ran.err
        return set(store.Store.open(place).get(f"selections/{name}").read("row").tolist())

    first = set(store.Store.open(place).get("selections/first").read("row").tolist())
    left = chosen("left", "-n", "6", "--exclude", "first")
    assert left == set(range(10)) - first
    assert chosen("both", "-n", "6", "--must-include", "left") == left
    assert chosen("some", "-n", "3", "--only", "left") < left
    other = write_jsonl("other.jsonl", prompt_rows(5, seed=4))
    assert cli("score", place, "--pool", f"other={other}", "--method", "random", "--name", "o").code == 0
    ran = cli("select", place, "--score", "o", "-n", "1", "--name", "x", "--exclude", "first")
    assert ran.code == 2
    assert "--exclude first: it selects rows of 'pool', not of 'other'" in ran.error_line
