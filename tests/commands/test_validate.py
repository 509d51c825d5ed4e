"""`ntksel validate` with a tiny model: the whole command, its files, the kept runs, and a kill in the middle."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from ntkcli.engine.models import loading
from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli
from tests.commands.test_kill import killed_once, tree
from tests.conftest import prompt_rows, write_rows
from tests.steps.validation.kit import make_world

KEYS = {"scores", "oracle", "runs", "diverged", "power", "sentences"}
SCORE_KEYS = {
    "score", "task", "lds", "lds_low", "lds_high", "slope", "slope_low", "slope_high", "rank_correlation", "p",
}  # fmt: skip
TINY = [
    "--score", "right", "--score", "chance", "--name", "v", "--rows", "3", "--seeds", "0,1", "--bins", "2", "--subsets",
    "10", "--epochs", "1", "--domain-repeat", "1", "--rank", "2", "--target-modules", "q_proj,v_proj",
]  # fmt: skip
RUNS = 1 + 2 * 3 + 2 * 2 * 2 + 10


def words(world: dict[str, Any], model: Path, *more: str | Path) -> list[str]:
    files = world["files"]
    data = ["--domain", str(files["domain"]), "--task", str(files["test"]), "--model", str(model)]
    return [str(world["store"]), *TINY, *data, "--oracle", "source=a", *map(str, more)]


def test_the_whole_command(cli: Cli, tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(tmp_path, rows=60)
    dry = cli("validate", *words(world, model_dir, "--dry-run"))
    assert dry.code == 0, dry.err
    assert f"validate: {RUNS} runs" in dry.out
    assert "is not known yet" in dry.out
    stored = open_store(world["store"])
    assert stored.find("validations/v") is None

    loads = []
    load_model = loading.load_model
    monkeypatch.setattr(loading, "load_model", lambda *a, **k: (loads.append(1), load_model(*a, **k))[1])
    table, everything, picture = tmp_path / "t.csv", tmp_path / "t.json", tmp_path / "t.svg"
    ran = cli("validate", *words(world, model_dir, "--json", "--keep-runs", "--export", table, "--plot", picture))
    assert ran.code == 0, ran.err
    assert loads == [1]  # one base model for all runs
    result = json.loads(ran.out)
    assert set(result) == KEYS
    assert {one["score"] for one in result["scores"]} == {"right", "chance"}
    assert all(set(one) == SCORE_KEYS for one in result["scores"])
    assert result["runs"] == RUNS
    assert result["diverged"] == 0
    assert len(list(csv.reader(table.read_text().splitlines()))) == 3
    assert b"</svg>" in picture.read_bytes()

    again = cli("validate", *words(world, model_dir, "--json", "--export", everything))
    assert json.loads(again.out) == result
    assert loads == [1]
    assert len(json.loads(everything.read_text())["curves"]) == 2
    shown = cli("validate", *words(world, model_dir))
    assert "slope (nats)" in shown.out
    assert "loss on test: base" in shown.out
    assert "No difference shown" in shown.out or "lower the loss" in shown.out or "wrong way" in shown.out
    dry = cli("validate", *words(world, model_dir, "--dry-run"))
    assert f"{RUNS} of them done" in dry.out
    assert "standard deviation" in dry.out

    artefact = stored.get("validations/v")
    _same_as_a_kept_run(cli, world, model_dir, artefact.read("nats")[2], artefact.read("tokens")[2])
    assert cli("info", world["store"], "--verify").code == 0
    refused = cli("validate", *words(world, model_dir, "--lr", "2e-3"))
    assert refused.code == 12
    assert "--lr" in refused.error_line
    assert cli("rm", world["store"], "validations/v").code == 0
    assert stored.find("validations/v") is None


def _same_as_a_kept_run(cli: Cli, world: dict[str, Any], model: Path, nats: np.ndarray, tokens: int) -> None:
    """The run of random rows, seed 0: evaluated by `eval` its choices have the nats that validate recorded."""
    store, test = world["store"], world["files"]["test"]
    ran = cli("eval", store, "--model", model, "--run", "v.random.s0", "--task", test, "--name", "e")
    assert ran.code == 0, ran.err
    stored = open_store(store)
    evaluated = stored.get("evals/e/v.random.s0")
    loglik, answer = evaluated.read("loglik"), evaluated.read("answer")
    expected = np.log(np.exp(loglik - loglik.max(1, keepdims=True)).sum(1)) + loglik.max(1)
    expected -= loglik[np.arange(len(answer)), answer]
    assert np.allclose(nats, expected, atol=1e-5)
    assert stored.get("runs/v.random.s0").read("tokens").sum() == tokens


def test_it_trains_as_finetune_does(cli: Cli, tmp_path: Path, model_dir: Path) -> None:
    """Each run is `finetune --train domain=2 --train ROWS` with the same options: the same adapter, bit for bit."""
    world = make_world(tmp_path, rows=60)
    options = ["--epochs", "1", "--rank", "2", "--target-modules", "q_proj,v_proj", "--model", str(model_dir)]
    options += ["--gradient-checkpointing"]
    said = write_rows(tmp_path / "said.jsonl", prompt_rows(9, seed=77))
    ran = cli(
        "validate", world["store"], "--score", "right", "--name", "v", "--design", "bins", "--bins", "2", "--rows", "3",
        "--seeds", "1", "--domain-repeat", "2", "--keep-runs", "--domain", world["files"]["domain"], "--task",
        world["files"]["test"], "--task", said, *options,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "average" in ran.out  # of the two tasks
    rows = open_store(world["store"]).get("validations/v").read("rows")
    lines = world["files"]["pool"].read_text().splitlines()
    for kept, number in (("v.domain.s1", None), ("v.right.bin1.s1", 3)):
        more: list[str | Path] = []
        if number is not None:
            more = ["--train", write_rows(tmp_path / "bin.jsonl", [lines[row] for row in rows[number]])]
        tuned = cli(
            "finetune", world["store"], "--train", f"{world['files']['domain']}=2", *more, "--name", f"f{number}",
            "--seed", "1", "--loss-per", "row", "--average-weights", *options,
        )  # fmt: skip
        assert tuned.code == 0, tuned.err
        folders = (world["store"] / "adapters" / run for run in (kept, f"f{number}"))
        first, second = (safetensors.torch.load_file(folder / "adapter_model.safetensors") for folder in folders)
        assert first.keys() == second.keys()
        assert all(first[name].equal(second[name]) for name in first)
    ran = cli(
        "eval", world["store"], "--model", model_dir, "--run", "v.domain.s1", "--task", said, "--scorer", "loss",
        "--name", "e",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    stored = open_store(world["store"])
    evaluated, nats = stored.get("evals/e/v.domain.s1"), stored.get("validations/v").read("nats")[1]
    assert np.allclose(nats[-9:], evaluated.read("nll") / evaluated.read("tokens"), atol=1e-5)


def test_runs_stop_early_as_finetune_does(cli: Cli, tmp_path: Path, model_dir: Path) -> None:
    """Rows held out of the domain, the same in every run; the adapter is the one of the lowest loss on them."""
    world = make_world(tmp_path, rows=60)
    options = ["--epochs", "4", "--rank", "2", "--lr", "0.02", "--hold-out", "0.2", "--patience", "1", "--model"]
    options += [str(model_dir), "--batch-size", "8"]
    ran = cli(
        "validate", world["store"], "--score", "right", "--name", "v", "--design", "bins", "--bins", "2", "--rows", "3",
        "--seeds", "1", "--domain-repeat", "2", "--keep-runs", "--domain", world["files"]["domain"], "--task",
        world["files"]["test"], *options,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    stored = open_store(world["store"])
    rows, lines = stored.get("validations/v").read("rows"), world["files"]["pool"].read_text().splitlines()
    own = write_rows(tmp_path / "bin.jsonl", [lines[row] for row in rows[3]])
    domain = world["files"]["domain"]
    tuned = cli(
        "finetune", world["store"], "--train", f"{domain}=2", "--train", own, "--name", "f", "--seed", "1",
        "--loss-per", "row", "--hold-out-of", domain, *options,
    )  # fmt: skip
    assert tuned.code == 0, tuned.err
    first, second = (stored.get(f"runs/{name}") for name in ("v.right.bin1.s1", "f"))
    assert first.attrs["held_out"] == second.attrs["held_out"] == 4
    taken = second.read("tokens") > 0
    judged, expected = first.read("held_out_loss"), second.read("held_out_loss")[taken]
    assert np.array_equal(judged, expected, equal_nan=True)
    adapters = (world["store"] / "adapters" / run / "adapter_model.safetensors" for run in ("v.right.bin1.s1", "f"))
    one, other = (safetensors.torch.load_file(path) for path in adapters)
    assert all(one[name].equal(other[name]) for name in one)
    ran = cli("finetune", world["store"], "--train", own, "--name", "x", "--hold-out-of", domain, *options)
    assert (ran.code, "is not one of --train" in ran.error_line) == (2, True)


def test_trainings_that_diverge_are_counted_and_the_rest_goes_on(cli: Cli, tmp_path: Path, model_dir: Path) -> None:
    world = make_world(tmp_path, rows=60)
    ran = cli(
        "validate",
        *words(world, model_dir, "--design", "bins", "--seeds", "0", "--lr", "1e38", "--epochs", "2", "--json"),
    )
    assert ran.code == 0, ran.err
    result = json.loads(ran.out)
    assert result["runs"] == 1 + 3 + 4
    assert result["diverged"] == 7  # all that are trained; the model before training is not
    assert "diverged, and counts as the worst" in ran.err
    artefact = open_store(world["store"]).get("validations/v")
    assert np.isfinite(artefact.read("nats")[0]).all()
    assert np.isnan(artefact.read("nats")[1:]).all()
    assert any("7 of 8 runs diverged" in text for text in result["sentences"])


def test_missing_matplotlib_and_other_slips(cli: Cli, tmp_path: Path, model_dir: Path) -> None:
    world = make_world(tmp_path, rows=60)
    for more, said in (
        (["--plot", "x.pdf"], ".png or .svg"),
        (["--export", "x.xlsx"], ".csv or .json"),
        (["--plot", str(tmp_path / "no" / "x.png")], "Create it first"),
        (["--seeds", "a"], "As in --seeds 0,1,2"),
    ):
        ran = cli("validate", *words(world, model_dir, *more))
        assert ran.code == 2
        assert said in ran.error_line


def test_no_file_of_the_users_is_written_over(cli: Cli, tmp_path: Path, model_dir: Path) -> None:
    world = make_world(tmp_path, rows=60)
    own, linked = tmp_path / "own.csv", tmp_path / "linked.json"
    own.write_text("mine\n")
    linked.hardlink_to(Path(str(world["files"]["domain"])))
    for more, said in (
        (["--export", own], "--force to write over it"),
        (["--export", linked, "--force"], "is the input"),
        (["--plot", Path(str(world["store"])) / "validations/x.png"], "is inside the store"),
    ):
        ran = cli("validate", *words(world, model_dir, *map(str, more)))
        assert ran.code == 2, ran.err
        assert said in ran.error_line
    assert own.read_text() == "mine\n"
    assert open_store(world["store"]).find("validations/v") is None


def test_kill_and_run_again(cli: Cli, tmp_path: Path, model_dir: Path) -> None:
    (tmp_path / "a").mkdir()
    world = make_world(tmp_path / "a", rows=60)
    shutil.copytree(world["store"], tmp_path / "killed")
    command = words(world, model_dir, "--json", "--design", "bins")
    unbroken = cli("validate", *command)
    assert unbroken.code == 0, unbroken.err
    command[0] = str(tmp_path / "killed")
    records = tmp_path / "killed" / "arrays.zarr/validations/v/part/c"
    assert killed_once(["validate", *command], records, after=4, delay=0.02)
    again = cli("validate", *command)
    assert again.code == 0
    assert json.loads(again.out) == json.loads(unbroken.out)
    assert tree(tmp_path / "killed") == tree(world["store"])
    assert not any((tmp_path / "killed" / "tmp").iterdir())
