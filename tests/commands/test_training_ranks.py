"""finetune as several processes: each computes its share of every step, and the run is that of one process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from ntkcli.engine.process_group import first_node
from ntkcli.errors import UsageError
from ntkcli.group import Group
from ntkcli.steps.shared.environment import ATTRIBUTE
from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli
from tests.commands.trainings_of_two import BREAKS_AT, TRAININGS, break_at, train
from tests.conftest import Writer, prompt_rows, write_rows

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks for it
ROOT = Path(__file__).parents[2]


def torchrun(*words: str) -> str:
    """What two processes print. Before a command stands `-m -- ntkcli`: torchrun would take `--run` for its own."""
    ran = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            *words,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, model_dir: Path) -> tuple[Path, Path, list[dict[str, object]]]:
    """The store of one process, that of two, and what the two ended with."""
    folder = tmp_path_factory.mktemp("ranks")
    shutil.copytree(model_dir, folder / "model")
    write_rows(folder / "d.jsonl", prompt_rows(21))
    one, two = folder / "one", folder / "two"
    break_at(BREAKS_AT)
    with pytest.raises(Exception, match="too long"):
        train(two, "resumed")
    shown = torchrun("-m", "tests.commands.trainings_of_two", str(two))
    train(two, "broken")
    for name in TRAININGS:
        train(one, name)
    return one, two, [json.loads(line) for line in shown.splitlines()]


def weights(folder: Path, name: str) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    found = load_file(folder / name)
    return np.concatenate([found[key].ravel() for key in sorted(found)])


@pytest.mark.parametrize("name", TRAININGS)
def test_the_run_is_that_of_one_process(stores: tuple[Path, Path, list[dict[str, object]]], name: str) -> None:
    """The log, the adapter, its moments and its checkpoints; also where one process began and two went on, or
    the reverse."""
    one, two = (open_store(path).get(f"runs/{name}") for path in stores[:2])
    assert two.complete
    assert two.spec == one.spec
    assert two.fingerprint == one.fingerprint
    for array in one.arrays:
        np.testing.assert_allclose(two.read(array), one.read(array), rtol=1e-4, err_msg=array)
    folders = [path / "adapters" / name for path in stores[:2]]
    files = sorted(path.relative_to(folders[0]) for path in folders[0].rglob("*.safetensors"))
    assert files == sorted(path.relative_to(folders[1]) for path in folders[1].rglob("*.safetensors"))
    for file in map(str, files):
        expected, found = (weights(folder, file) for folder in folders)
        scale = np.abs(expected).max()
        assert np.abs(found - expected).max() <= 1e-3 * scale, file


def test_processes_are_in_the_environment_alone(stores: tuple[Path, Path, list[dict[str, object]]]) -> None:
    one, two = (open_store(path) for path in stores[:2])
    kept = {name: [each.get("processes") for each in two.get(f"runs/{name}").attrs[ATTRIBUTE]] for name in TRAININGS}
    assert kept == {"rows": [2], "resumed": [None, 2], "broken": [2, 1]}
    assert "processes" not in one.get("runs/rows").attrs[ATTRIBUTE][0]


def test_an_error_of_one_process_ends_all_and_is_reported_once(
    stores: tuple[Path, Path, list[dict[str, object]]],
) -> None:
    shown = {each["process"]: each["shown"] for each in stores[2]}
    others = dict.fromkeys([name for name in TRAININGS if name != "broken"], "")
    assert shown == {
        0: {**others, "broken": "ToldElsewhereError: Process 2 of 2 has failed."},
        1: {**others, "broken": "NtkselError: a row of the second process is too long."},
    }


def test_an_interrupt_ends_a_process_that_waits_for_the_others(
    tmp_path: Path, model_dir: Path, write_jsonl: Writer
) -> None:
    data = write_jsonl("d.jsonl", prompt_rows(4))
    meeting = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    words = ["finetune", tmp_path / "s", "--train", data, "--name", "r", "--model", model_dir]
    waiting = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "ntkcli", *map(str, words)], cwd=ROOT, env={**os.environ, **meeting}
    )
    try:
        with pytest.raises(subprocess.TimeoutExpired):  # the other one never comes
            waiting.wait(timeout=15)
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(timeout=20) != 0
    finally:
        waiting.kill()
    assert not (tmp_path / "s/adapters").exists()


def free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        return int(server.getsockname()[1])


class Two(Group):
    """What a step sees of a group before it waits for the others."""

    count = 2


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"batch_size": 1}, "--batch-size 1: it is the rows of a step, which 2 processes share. Give 2 or more"),
        ({"train": ["-"]}, "--train -: standard input is read once, and this is one of 2 processes. Give a file."),
    ],
)
def test_what_processes_can_t_share_is_refused(
    tmp_path: Path, model_dir: Path, more: dict[str, object], message: str
) -> None:
    from ntkcli.steps.training.finetune import finetune

    given = {"model": str(model_dir), "train": ["d.jsonl"], "name": "r", "processes": Two(), **more}
    with pytest.raises(UsageError, match=message):
        finetune(tmp_path / "s", **given)  # type: ignore[arg-type]  # of several types
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("option", ["--lr-find", "--dry-run"])
def test_what_one_process_does_is_refused(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    ran = cli("finetune", tmp_path / "s", "--model", "m", "--train", "d.jsonl", "--name", "r", option)
    assert ran.code == 2
    assert f"ntksel finetune {option} is for one process, and RANK=0 with WORLD_SIZE=2" in ran.error_line


@pytest.mark.parametrize(
    ("names", "message"),
    [({}, "does not say where"), ({"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}, "MASTER_PORT=0")],
)
def test_an_environment_without_a_meeting_place_is_named(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, names: dict[str, str], message: str
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_NODELIST", "SLURM_STEP_NODELIST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", **names}.items():
        monkeypatch.setenv(name, value)
    ran = cli("finetune", tmp_path / "s", "--model", "m", "--train", "d.jsonl", "--name", "r")
    assert ran.code == 2
    assert message in ran.error_line


def test_rows_are_dealt_out_evenly() -> None:
    sizes = [9, 2, 7, 4, 5]
    shares = []
    for index in range(2):
        group = Two()
        group.index = index
        shares.append(group.share([0, 1, 2, 3, 4], sizes))
    assert shares == [[0, 3, 1], [2, 4]]
    assert Group().share([3, 1, 2], sizes) == [3, 1, 2]


@pytest.mark.parametrize(
    ("nodes", "first"), [("gpu[03-05,9],login", "gpu03"), ("n1,n2", "n1"), ("a[7].site", "a7.site"), ("host", "host")]
)
def test_the_first_node_of_a_step(nodes: str, first: str) -> None:
    assert first_node(nodes) == first
