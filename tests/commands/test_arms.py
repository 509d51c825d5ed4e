"""`ntksel arms`: all arms under one budget, resumable, with the numbers that the store and the statistics give."""

from __future__ import annotations

import csv
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from scipy.special import log_softmax

from ntkcli.steps.pipelines.arms_plan import default_arms
from tests.commands.conftest import Cli
from tests.conftest import Writer, choice_rows, prompt_rows

N = 6
DEFAULT = default_arms("steps")


@pytest.fixture
def options(tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> list[str | Path]:
    files = {
        "--pool": write_jsonl("pool.jsonl", prompt_rows(50, seed=1)),
        "--domain": write_jsonl("domain.jsonl", prompt_rows(10, seed=2)),
        "--task": write_jsonl("test.jsonl", choice_rows(20)),
    }
    on: list[str | Path] = ["--model", model_dir, "--max-length", "96", "--dim", "64", "-n", str(N), "--epochs", "1"]
    return [*(word for pair in files.items() for word in pair), *on]


def test_every_arm(cli: Cli, tmp_path: Path, options: list[str | Path]) -> None:
    store, table = tmp_path / "med", tmp_path / "table.csv"
    ran = cli("arms", store, *options, "--seeds", "0,1", "--draws", "3", "--export", table, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert [score["arm"] for score in found["scores"]] == list(DEFAULT)
    assert found["baseline"] == "random"
    spent = found["spent"]
    assert spent["base"] == {"rows": 0, "tokens": 0, "steps": 0}
    assert {s["steps"] for arm, s in spent.items() if arm not in ("base", "domain")} == {spent["selected"]["steps"]}
    assert spent["domain"]["rows"] == 0
    assert {
        arm: s["rows"] for arm, s in spent.items() if arm not in ("base", "domain", "domain-steps")
    } == dict.fromkeys(("random", "random-length", "embedding", "preselect-random", "bm25", "selected"), N)
    assert spent["domain"]["tokens"] < spent["selected"]["tokens"]

    arrays = zarr.open_group(store / "arrays.zarr", mode="r")
    rows = {name: set(arrays[f"selections/{name}/row"][:]) for name in arrays["selections"]}
    assert all(rows[f"preselect-random-s{seed}"] <= rows["coarse"] for seed in (0, 1))
    assert rows["picked"] <= rows["coarse"]
    assert rows["random-s0"] != rows["random-s1"]
    for score in found["scores"]:
        names = ["base"] if score["arm"] == "base" else [f"{score['arm']}.s0", f"{score['arm']}.s1"]
        names += ["random.s2"] if score["arm"] == "random" else []
        correct = [arrays[f"evals/arms/{name}/correct"][:].mean() for name in names]
        assert score["value"] == pytest.approx(np.mean(correct))
        right = [
            log_softmax(loglik, axis=1)[np.arange(20), arrays["evals/arms/base/answer"][:]]
            for loglik in (arrays[f"evals/arms/{name}/loglik"][:] for name in names)
        ]
        assert found["log_loss"]["test"][score["arm"]] == pytest.approx(-np.mean(right))
        assert score["low"] <= score["value"] <= score["high"]
        assert (score["difference"] is None) == (score["arm"] == "random")
    assert sum(" random: " in said or " random by " in said for said in found["sentences"]) == len(DEFAULT) - 1

    lines = list(csv.DictReader(io.StringIO(table.read_text())))
    assert (store / "reports/arms.csv").read_text() == table.read_text()
    for line, score in zip(lines, found["scores"], strict=True):
        assert (line["arm"], int(line["rows"])) == (score["arm"], spent[score["arm"]]["rows"])
        assert float(line["value"]) == pytest.approx(score["value"])
        assert float(line["log_loss"]) == pytest.approx(found["log_loss"]["test"][score["arm"]], rel=1e-5)
        assert int(line["steps"]) == spent[score["arm"]]["steps"]
        assert (line["p_holm"] == "") == (score["difference"] is None)
    assert json.loads((store / "reports/arms.json").read_text())["scores"] == found["scores"]

    again = cli("arms", store, *options, "--seeds", "0,1", "--draws", "3")
    assert again.code == 0, again.err
    assert "random" in again.out
    assert "seeds" in again.out
    assert "computed," not in again.err.replace(" 0 computed,", "")  # nothing is done twice
    assert "evals/arms/selected.s1 is finished already" in again.err


SOME = ["--arms", "base,domain,random,selected", "--draws", "1"]


def test_killed_and_given_again(cli: Cli, tmp_path: Path, options: list[str | Path]) -> None:
    unbroken = cli("arms", tmp_path / "unbroken", *options, *SOME, "--json")
    assert unbroken.code == 0, unbroken.err
    command = [sys.executable, "-m", "ntkcli", "arms", *map(str, [tmp_path / "killed", *options, *SOME])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    runs = tmp_path / "killed/arrays.zarr/runs"
    while process.poll() is None and not (runs / "selected.s0/part/c/0").exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), stderr
    again = cli("arms", tmp_path / "killed", *options, *SOME, "--json")
    assert again.code == 0, again.err

    def values(out: str) -> dict[str, Any]:
        found = json.loads(out)
        return {key: found[key] for key in ("scores", "sentences", "spent")}

    assert values(again.out) == values(unbroken.out)


def test_the_readmes_artefacts_are_used(cli: Cli, tmp_path: Path, options: list[str | Path]) -> None:
    """A warm-up and features that were made by hand are found; what was made otherwise is refused by name."""
    store, words = tmp_path / "med", dict(zip(options[::2], options[1::2], strict=True))
    on: list[str | Path] = ["--model", words["--model"], "--max-length", "96"]
    warmup = ["--train", words["--domain"], "--name", "warmup", "--epochs", "1"]
    assert cli("finetune", store, *on, *warmup).code == 0
    ran = cli("arms", store, *options, "--arms", "base,domain,random,embedding", "--draws", "1")
    assert ran.code == 0, ran.err
    assert "runs/warmup is finished already" in ran.err
    ran = cli("arms", store, *options, *SOME, "--warmup-epochs", "2")
    assert ran.code == 12
    assert "epochs" in ran.error_line
    assert "ntksel finetune" in ran.error_line
    ran = cli("arms", store, *options, *SOME, "--warmup-epochs", "2", "--prefix", "b-", "--dry-run")
    assert ran.code == 0
    assert "--name b-warmup" in ran.out


def test_words_first_the_kernel_later(cli: Cli, tmp_path: Path, options: list[str | Path]) -> None:
    """Arms by words and at random ask no model for rows; what they chose is used when the kernel's arm is added."""
    store = tmp_path / "med"
    assert cli("arms", store, *options, "--arms", "random,bm25", "--draws", "1").code == 0
    assert "features" not in zarr.open_group(store / "arrays.zarr", mode="r")
    ran = cli("arms", store, *options, "--arms", "random,bm25,selected", "--draws", "1")
    assert ran.code == 0, ran.err
    for made in ("scores/random-s0", "scores/bm25", "selections/bm25", "runs/random.s0", "runs/bm25.s0"):
        assert f"{made} is finished already" in ran.err


def test_dry_run_and_recipe(cli: Cli, tmp_path: Path, options: list[str | Path]) -> None:
    store, recipe = tmp_path / "med", tmp_path / "arms.toml"
    shown = cli("arms", store, *options, "--dry-run")
    assert shown.code == 0, shown.err
    assert not store.exists()
    written = cli("arms", store, *options, "--recipe", recipe)
    assert written.code == 0, written.err
    assert not store.exists()
    commands = [line for line in shown.out.splitlines() if not line.startswith("# ")]
    assert cli("run", recipe, "--dry-run").out.splitlines() == commands
    assert "tokens to train on" in shown.out
    assert "How large a difference these sizes can show is not known yet" in shown.out
    assert "One seed per arm says nothing about other seeds" in shown.out
    assert f"--against {tmp_path}/test.jsonl" in shown.out  # no arm may train on test items
    plan = json.loads(cli("arms", store, *options, "--probe", "sum", "--probe", "centred", "--dry-run", "--json").out)
    assert plan["arms"]["selected-sum"].startswith("the domain and the best rows by the kernel")


@pytest.mark.parametrize(
    ("given", "scored"),
    [
        ([], "--method cosine --feature ntk --rows coarse --centre --name stage2"),
        (["--preset", "paper"], "--method mean --feature ntk-sum --rows coarse --name stage2-sum\n"),
        (["--preset", "paper", "--centre"], "--method mean --feature ntk-sum --rows coarse --centre --name stage2-sum"),
        (["--method", "max"], "--method max --feature ntk --rows coarse --name stage2\n"),
        (["--no-centre"], "--method cosine --feature ntk --rows coarse --name stage2\n"),
    ],
)
def test_presets(cli: Cli, tmp_path: Path, options: list[str | Path], given: list[str], scored: str) -> None:
    shown = cli("arms", tmp_path / "med", *options, *given, "--dry-run")
    assert shown.code == 0, shown.err
    assert scored in shown.out


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["--arms", "base,randm"], "'randm' is not a valid arm. Give some of: base, domain"),
        (["--seeds", "0,x"], "--seeds 0,x: expected whole numbers"),
        (["--seeds", "1,1"], "--seeds: 1, 1. Give each once"),
        (["--token-budget", "100"], "The budget is missing or given twice"),
        (["--baseline", "mixed"], "--baseline mixed is not one of the arms"),
        (["--coarse", "500"], "--coarse 500: the pool has 50 rows. Give --coarse 50 or less"),
        (["-n", "50"], "-n 50: the pool has 50 rows"),
        (["--pool", "none.jsonl"], "none.jsonl does not exist"),
        (["--domain", "none.jsonl"], "none.jsonl does not exist"),
        (["--domain", "-"], "Standard input can be read once"),
        (["--export", "table.xlsx"], "Give a file that ends in .csv or .json"),
        (["--export", "none/table.csv"], "there is no folder none"),
        (["--name", "a/b"], "--name"),
        (["--prefix", "../"], "--prefix"),
    ],
)
def test_refusals_before_anything_runs(
    changes: list[str], told: str, cli: Cli, tmp_path: Path, options: list[str | Path]
) -> None:
    ran = cli("arms", tmp_path / "med", *options, *changes)
    assert ran.code == 2, ran.err
    assert told in ran.error_line
    assert not (tmp_path / "med").exists()


def test_without_a_pool_and_with_several_tasks(
    cli: Cli, tmp_path: Path, options: list[str | Path], write_jsonl: Writer
) -> None:
    given: list[str | Path] = [*options[2:-4], "--epochs", "1", "--seeds", "0,1"]  # neither pool nor budget
    tasks = ["--task", f"other={write_jsonl('o.jsonl', choice_rows(9, seed=5))}"]
    tasks += ["--retain", str(write_jsonl("general.jsonl", choice_rows(9, seed=6)))]
    ran = cli("arms", tmp_path / "med", *given, *tasks)
    assert ran.code == 2
    assert "The budget is missing" in ran.error_line
    ran = cli("arms", tmp_path / "med", *given, *tasks, "--arms", "base,domain", "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert found["baseline"] == "domain"
    assert len(found["commands"]) == 2
    assert found["retained"] == ["general"]
    assert {score["task"] for score in found["scores"]} == {"test", "other", "general", "average"}
    shown = cli("arms", tmp_path / "med", *given, *tasks, "--arms", "base,domain")
    assert "general (retained)" in shown.out
    assert shown.out.count("domain on test") == 1  # the eval's own table is not shown beside it
    assert "domain on test" not in shown.err


def test_as_many_tokens_as_another_run(cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    on = [tmp_path / "s", "--model", model_dir, "--train", write_jsonl("d.jsonl", prompt_rows(8))]
    first = cli("finetune", *on, "--name", "long", "--epochs", "2", "--json")
    assert first.code == 0, first.err
    second = cli("finetune", *on, "--name", "other", "--match-tokens", "long", "--json")
    assert json.loads(second.out)["tokens"] == json.loads(first.out)["tokens"]
    ran = cli("finetune", *on, "--name", "x", "--match-tokens", "none")
    assert ran.code == 10
    assert "runs/none" in ran.error_line
    ran = cli("finetune", *on, "--name", "x", "--match-tokens", "long", "--epochs", "1")
    assert ran.code == 2
    assert "--match-tokens says when to stop, as --epochs" in ran.error_line
