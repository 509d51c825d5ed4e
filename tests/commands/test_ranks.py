"""Several processes, one store: ranks of torchrun and SLURM take the parts in turns."""

from __future__ import annotations

import json
import os
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from ntkcli import options
from ntkcli.errors import UsageError
from ntkcli.steps.features.featurize import featurize
from ntkcli.steps.shared import shards
from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli
from tests.commands.test_training_ranks import Two, torchrun
from tests.conftest import Writer, choice_rows, prompt_rows

VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_NTASKS",
    "SLURM_LOCALID",
)


@pytest.fixture(autouse=True)
def no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def arguments(store: Path, model: Path, data: Path) -> list[str]:
    settings = ["--name", "d", "--kind", "ntk", "--dim", "64", "--part-rows", "4", "--batch-tokens", "128", "-q"]
    return ["featurize", str(store), "--data", str(data), "--model", str(model), *settings]


def test_exact_scores_and_evals_by_torchrun(tmp_path: Path, model_dir: Path, write_jsonl: Writer, cli: Cli) -> None:
    """Two processes: the artefacts of one, and the result once, from the first process, when all parts are there."""
    pool, domain = write_jsonl("p.jsonl", prompt_rows(600)), write_jsonl("d.jsonl", prompt_rows(4, seed=1))
    task = write_jsonl("t.jsonl", choice_rows(150))
    s = str(tmp_path / "s")
    how = ("--kind", "ntk", "--model", str(model_dir), "--dim", "64", "-q")
    for name, data in (("p", pool), ("d", domain)):
        assert cli("featurize", s, "--data", str(data), "--name", name, *how).code == 0
    given: dict[str, list[str]] = {
        "score": [s, "--pool", "p", "--domain", "d", "--method", "exact", "--feature", "ntk", "--json", "-q"],
        "eval": [s, "--model", str(model_dir), "--run", "base", "--task", str(task), "--json", "-q"],
    }
    for verb, words in given.items():
        alone = cli(verb, *words, "--name", "one")
        assert alone.code == 0, alone.err
        both = json.loads(
            torchrun("-m", "--", "ntkcli", verb, *words, "--name", "two")
        )  # one object: a second would be no JSON
        assert both == json.loads(alone.out.replace('/one"', '/two"').replace('"one"', '"two"'))
    stored = open_store(s)
    for kind in ("scores/{}", "evals/{}/base"):
        one, two = (stored.get(kind.format(name)) for name in ("one", "two"))
        assert two.complete
        assert len(two.done()) == 3
        assert two.digest() == one.digest()


@pytest.mark.parametrize("verb", ["score", "eval"])
def test_each_process_computes_its_own_parts(
    tmp_path: Path, model_dir: Path, write_jsonl: Writer, cli: Cli, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """A process whose others have stopped says so, and the command goes on where they were."""
    pool, task = write_jsonl("p.jsonl", prompt_rows(600)), write_jsonl("t.jsonl", choice_rows(150))
    s = str(tmp_path / "s")
    given: dict[str, list[str]] = {
        "score": [s, "--pool", "p", "--domain", "p", "--method", "exact", "--feature", "ntk", "--name", "x", "--json"],
        "eval": [s, "--model", str(model_dir), "--run", "base", "--task", str(task), "--name", "x", "--json"],
    }
    if verb == "score":
        how = ("--kind", "ntk", "--model", str(model_dir), "--dim", "64", "-q")
        assert cli("featurize", s, "--data", str(pool), "--name", "p", *how).code == 0
    monkeypatch.setattr(shards, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(shards, "_LOOK_SECONDS", 0.0)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    first = cli(verb, *given[verb])
    assert first.code == 1
    assert "the other processes have written nothing" in first.error_line
    place = {"score": "scores/x", "eval": "evals/x/base"}[verb]
    assert open_store(s).get(place).done().tolist() == [False, True, False]
    monkeypatch.setenv("RANK", "0")
    second = cli(verb, *given[verb])
    assert second.code == 0, second.err
    assert json.loads(second.out)
    monkeypatch.setenv("RANK", "1")
    third = cli(verb, *given[verb])
    assert (third.code, third.out) == (0, "")


def test_a_task_of_lm_eval_is_one_process_s(
    tmp_path: Path, model_dir: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ("--model", str(model_dir), "--run", "base", "--task", "lm_eval:piqa", "--name", "x")
    ran = cli("eval", str(tmp_path / "s"), *words)
    assert ran.code == 2
    assert "--task lm_eval:NAME is for one process, and this is one of 2" in ran.error_line


def test_torchrun(tmp_path: Path, model_dir: Path, write_jsonl: Writer) -> None:
    """Two real processes that start at once, from nothing: the store of one process."""
    data = write_jsonl("d.jsonl", prompt_rows(21))
    torchrun("-m", "--", "ntkcli", *arguments(tmp_path / "s", model_dir, data))
    both = open_store(tmp_path / "s").get("features/d/ntk")
    assert both.complete
    one = featurize(
        tmp_path / "t",
        data=data,
        name="d",
        kind="ntk",
        model=str(model_dir),
        dim=64,
        part_rows=4,
        batch_tokens=128,
    )
    assert both.digest() == one.digest


def test_slurm_s_steps_take_parts_in_turns(
    tmp_path: Path, model_dir: Path, write_jsonl: Writer, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_jsonl("d.jsonl", prompt_rows(21))
    for rank, parts in ((1, [1, 4]), (0, [0, 1, 3, 4]), (2, [0, 1, 2, 3, 4, 5])):
        monkeypatch.setenv("SLURM_PROCID", str(rank))
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "3")
        assert cli(*arguments(tmp_path / "s", model_dir, data)).code == 0
        assert open_store(tmp_path / "s").get("features/d/ntk").done().nonzero()[0].tolist() == parts


def test_a_batch_script_without_srun_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """sbatch --ntasks 4 sets these for the script itself; three quarters of the parts would never be computed."""
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "4")
    assert options.own_shard() == (0, 1)


def test_an_environment_that_is_no_rank_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "4")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UsageError, match=r"RANK=4 and WORLD_SIZE=4 .* --shard I/N"):
        options.own_shard()


def test_a_local_rank_has_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert options.own_device("auto") == "auto"
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert options.own_device("auto") == "cuda:1"
    assert options.own_device("cuda:0") == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "3")  # more processes than devices: they share
    assert options.own_device("auto") == "cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert options.own_device("auto") == "auto"


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_several_probes_of_one_direction_are_refused(
    tmp_path: Path, model_dir: Path, write_jsonl: Writer, cli: Cli, dry: list[str]
) -> None:
    data = write_jsonl("d.jsonl", prompt_rows(3))
    ran = cli(*arguments(tmp_path / "s", model_dir, data), "--probe", "sum", "--probes", "4", *dry)
    assert ran.code == 2
    assert "--probe rademacher or --probe centred" in ran.error_line
    assert not (tmp_path / "s").exists()


ALONE = ("score", "select", "diagnose", "arms", "run", "rm", "demo", "merge")
"""Commands that can't share their work."""


def least_arguments(verb: str, tmp_path: Path) -> list[str | Path]:
    """As little as the command is parsed with."""
    store = tmp_path / "s"
    more: dict[str, list[str | Path]] = {
        "score": [store, "--pool", "p", "--method", "random", "--name", "x"],
        "select": [store, "--score", "x", "-n", "1", "--name", "y"],
        "diagnose": [store, "length"],
        "arms": [store, "--domain", "d", "--pool", "p", "--task", "t", "--model", "M", "-n", "1", "--name", "a"],
        "run": ["recipe.toml"],
        "rm": [store, "x"],
        "demo": [store],
        "merge": [store, "--run", "r", "--out", tmp_path / "out"],
    }
    return [verb, *more[verb]]


@pytest.mark.parametrize("verb", ALONE)
@pytest.mark.parametrize(
    "names",
    [
        ("RANK", "WORLD_SIZE"),
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ],
)
def test_commands_that_share_no_work_refuse_ranks(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, verb: str, names: tuple[str, str]
) -> None:
    for rank in "01":
        monkeypatch.setenv(names[0], rank)
        monkeypatch.setenv(names[1], "2")
        ran = cli(*least_arguments(verb, tmp_path))
        assert ran.code == 2
        assert f"ntksel {verb} is for one process, and {names[0]}={rank} with {names[1]}=2" in ran.error_line
        assert f"unset {names[0]} and {names[1]}" in ran.error_line
        assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["featurize", "s", "--data", "-", "--model", "M", "--name", "d", "--kind", "ntk"],
        ["eval", "s", "--task", "t=-", "--model", "M", "--name", "e", "--run", "base"],
        ["finetune", "s", "--train", "-=2", "--model", "M", "--name", "r", "--batch-size", "4"],
    ],
)
def test_standard_input_is_refused_to_one_of_several_processes(
    tmp_path: Path, cli: Cli, model_dir: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("ntkcli.steps.shared.together.together", lambda *_: nullcontext(Two()))
    ran = cli(*(str(model_dir) if word == "M" else word for word in words))
    assert ran.code == 2
    assert f"{words[2]} -: standard input is read once, and this is one of 2 processes." in ran.error_line


def test_one_of_one_process_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("SLURM_PROCID", "3")  # of a batch script without srun
    options.refuse_ranks("select")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for it
def test_a_training_by_the_python_interface_waits_for_nobody(
    tmp_path: Path, model_dir: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate would open a group of two processes, wait for the other for 30 minutes and ignore Ctrl-C."""
    from ntkcli.steps.training.finetune import finetune

    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29517"}
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    data = write_jsonl("d.jsonl", prompt_rows(3))
    assert finetune(tmp_path / "s", model=str(model_dir), train=[str(data)], name="r", epochs=1).steps == 1
    assert not torch.distributed.is_initialized()
    assert {name: os.environ[name] for name in ranks} == ranks
