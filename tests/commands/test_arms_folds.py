"""`ntksel arms --folds`: every domain row is tested once, by models that never saw it; killed and given again."""

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
from ntkcli.statistics.learning import choice_nats
from tests.commands.conftest import Cli
from tests.conftest import Writer, choice_rows, prompt_rows

ARMS = ["--arms", "base,domain,random", "--draws", "1", "-n", "4", "--epochs", "1", "--max-length", "96"]


@pytest.fixture
def options(model_dir: Path, write_jsonl: Writer) -> list[str | Path]:
    rows = [{**row, "prompt": f"{i} {row['prompt']}", "author": f"w{i // 2}"} for i, row in enumerate(choice_rows(12))]
    pool = write_jsonl("pool.jsonl", prompt_rows(12, seed=1))
    return ["--domain", write_jsonl("domain.jsonl", rows), "--pool", pool, "--model", model_dir, *ARMS]


def test_every_row_is_tested_once_by_models_that_never_saw_it(
    cli: Cli, tmp_path: Path, options: list[str | Path], write_jsonl: Writer
) -> None:
    place = tmp_path / "s"
    general = write_jsonl("general.jsonl", choice_rows(5, seed=6))
    words = [*options, "--folds", "3", "--by", "author", "--retain", general]
    shown = cli("arms", place, *words, "--dry-run", "--json")
    assert shown.code == 0, shown.err
    assert not place.exists()
    ran = cli("arms", place, *words, "--json")
    assert ran.code == 0, ran.err
    found, stored = json.loads(ran.out), store.Store.open(place)
    assert json.loads(shown.out)["commands"] == found["commands"]
    assert (found["folds"], found["items"]) == (3, 12)
    domain = {json.loads(line)["id"]: line for line in (tmp_path / "domain.jsonl").read_text().splitlines()}
    tested: list[str] = []
    right: list[np.ndarray] = []
    nats: list[np.ndarray] = []
    (folder,) = (place / "folds").iterdir()
    for fold in (1, 2, 3):
        train, test = ((folder / f"domain.fold{fold}of3.{side}.jsonl").read_text() for side in ("train", "test"))
        sides = [[json.loads(line) for line in text.splitlines()] for text in (train, test)]
        assert {row["id"] for side in sides for row in side} == set(domain)
        assert not {row["author"] for row in sides[0]} & {row["author"] for row in sides[1]}
        tested += [row["id"] for row in sides[1]]
        artefact = stored.get(f"evals/arms-f{fold}/f{fold}-random.s0")
        own = artefact.read("task") == 0
        right.append(artefact.read("correct")[own])
        nats.append(choice_nats(artefact.read("loglik")[own], artefact.read("answer")[own]))
        spec = stored.get(f"runs/f{fold}-domain.s0").spec
        assert spec["train"][0]["data"] == stored.get(f"runs/f{fold}-random.s0").spec["train"][0]["data"]
    assert sorted(tested) == sorted(domain)
    score = next(each for each in found["scores"] if (each["arm"], each["task"]) == ("random", "domain"))
    assert score["value"] == pytest.approx(np.concatenate(right).mean())
    assert score["n"] == 12
    assert found["log_loss"]["domain"]["random"] == pytest.approx(np.concatenate(nats).mean())
    kept = next(each for each in found["scores"] if (each["arm"], each["task"]) == ("random", "general"))
    assert list(kept["seeds"]) == ["0.f1", "0.f2", "0.f3"]
    assert json.loads((place / "reports/arms.json").read_text())["scores"] == found["scores"]
    again = cli("arms", place, *words)
    assert again.code == 0, again.err
    assert "12 items in 3 folds" in again.out
    assert "evals/arms-f3/f3-random.s0 is finished already" in again.err
    split = cli("split", tmp_path / "domain.jsonl", "--folds", "3", "--by", "author", "--out", tmp_path / "own")
    assert split.code == 0, split.err
    for file in (tmp_path / "own").iterdir():
        assert file.read_bytes() == (folder / file.name).read_bytes()  # the same folds as `ntksel split` writes


def test_killed_in_the_middle_of_a_fold(cli: Cli, tmp_path: Path, options: list[str | Path]) -> None:
    words = [*options, "--folds", "2", "--json"]
    unbroken = cli("arms", tmp_path / "unbroken", *words)
    assert unbroken.code == 0, unbroken.err
    command = [sys.executable, "-m", "ntkcli", "arms", *map(str, [tmp_path / "killed", *words])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "killed/arrays.zarr/runs/f2-domain.s0/part/c/0").exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), stderr
    again = cli("arms", tmp_path / "killed", *words)
    assert again.code == 0, again.err
    keys = ("scores", "sentences", "spent", "log_loss")
    found, expected = (json.loads(each.out) for each in (again, unbroken))
    assert {key: found[key] for key in keys} == {key: expected[key] for key in keys}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--task is missing. Give the test items: --task FILE; or --folds 5"),
        (["--folds", "3", "--task", "t.jsonl"], "--task and --folds both say what to test on"),
        (["--by", "author"], "--by author: there are no folds"),
        (["--folds", "30"], "30 sides of 12 rows"),
        (["--folds", "3", "--by", "writer"], "--by writer: no row has that column. The first has"),
    ],
)
def test_slips_are_refused_before_anything_runs(
    words: list[str], told: str, cli: Cli, tmp_path: Path, options: list[str | Path]
) -> None:
    ran = cli("arms", tmp_path / "s", *options, *words)
    assert ran.code == 2, ran.err
    assert told in ran.error_line
    assert not (tmp_path / "s").exists()
