"""Ray clusters of two nodes on this machine: one is killed in the middle; what a node lacks is found before work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import store
from tests.commands.conftest import Cli, cli
from tests.conftest import Writer, choice_rows, prompt_rows
from tests.steps.cluster.kit import arrays_of

__all__ = ["cli"]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without a CPU to give and two nodes of one each."""
    from ntkcli.steps.cluster.ray_pool import SETTINGS

    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    made.workers = [made.add_node(num_cpus=1) for _ in range(2)]
    made.wait_for_nodes()
    yield made
    made.shutdown()


@pytest.fixture
def data(write_jsonl: Writer) -> dict[str, Path]:
    return {
        "pool": write_jsonl("pool.jsonl", prompt_rows(120, seed=1)),
        "domain": write_jsonl("domain.jsonl", prompt_rows(9, seed=2)),
        "test": write_jsonl("test.jsonl", choice_rows(80)),
    }


def test_a_node_that_is_killed_costs_no_byte(
    cluster: Any, cli: Cli, tmp_path: Path, model_dir: Path, data: dict[str, Path]
) -> None:
    ntk = ["--kind", "ntk", "--dim", "64", "--model", model_dir, "--rank", "2", "--part-rows", "4"]
    words = ["--data", data["pool"], "--name", "pool", *ntk, "--json"]
    killed = threading.Thread(target=kill_in_the_middle, args=(cluster, tmp_path / "many"))
    killed.start()
    many = cli("featurize", tmp_path / "many", *words, "--ray", cluster.address)
    killed.join()
    assert many.code == 0, many.err
    assert len(cluster.list_all_nodes()) == 2
    one = cli("featurize", tmp_path / "one", *words)
    assert one.code == 0, one.err
    assert json.loads(many.out)["digest"] == json.loads(one.out)["digest"]
    assert arrays_of(tmp_path / "one") == arrays_of(tmp_path / "many")


def kill_in_the_middle(cluster: Any, path: Path) -> None:
    """Kill a node, without a word, when a quarter of the parts is done."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        time.sleep(0.05)
        try:
            if len(store.Store.open(path).get("features/pool/ntk").pending()) < 22:
                break
        except store.StoreError:
            continue
    cluster.remove_node(cluster.workers[0], allow_graceful=False)


def test_arms_on_two_nodes(cluster: Any, cli: Cli, tmp_path: Path, model_dir: Path, data: dict[str, Path]) -> None:
    words = ["--model", model_dir, "--domain", data["domain"], "--pool", data["pool"], "--task", data["test"],
             "-n", "3", "--arms", "base,domain,selected", "--seeds", "0,1",
             "--epochs", "1", "--dim", "16", "--rank", "2"]  # fmt: skip
    many = cli("arms", tmp_path / "many", *words, "--json", "--ray", cluster.address)
    assert many.code == 0, many.err
    one = cli("arms", tmp_path / "one", *words, "--json")
    assert json.loads(many.out)["scores"] == json.loads(one.out)["scores"]
    assert arrays_of(tmp_path / "one") == arrays_of(tmp_path / "many")


def test_what_a_node_lacks_is_found_before_work(
    cluster: Any, cli: Cli, tmp_path: Path, model_dir: Path, data: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made with files that are gone, or differ, when the nodes look: both see one disk here."""
    from ntkcli.steps.cluster import nodes, ray_pool

    model = shutil.copytree(model_dir, tmp_path / "model")
    words = ["--data", data["pool"], "--name", "pool", "--kind", "embed", "--model", model, "--ray", cluster.address]
    ask = nodes.ask

    def after(change: Any) -> None:
        def asked(*given: Any) -> Any:
            question = ask(*given)
            change(question)
            return question

        monkeypatch.setattr("ntkcli.commands.on_ray.ask", asked)

    weights = model / "model.safetensors"
    kept = weights.read_bytes()
    after(lambda _: weights.unlink())
    ran = cli("featurize", tmp_path / "s", *words)
    assert ran.code == 2
    assert "does not have the model" in ran.error_line
    weights.write_bytes(kept)
    after(lambda question: Path(question.probe).write_text("another disk"))
    ran = cli("featurize", tmp_path / "s", *words)
    assert ran.code == 2
    assert "is not shared" in ran.error_line
    rows = data["pool"].read_text()
    after(lambda _: data["pool"].write_text(rows[:-1]))
    ran = cli("featurize", tmp_path / "s", *words)
    assert ran.code == 2
    assert "does not have" in ran.error_line
    assert "pool.jsonl, or of another size" in ran.error_line
    assert list(store.Store.open(tmp_path / "s").names()) == []
    assert [path.name for path in (tmp_path / "s" / "tmp").iterdir()] == [".lock"]
    assert ray_pool.LOCAL == "local"


def test_a_second_cluster_on_one_store_is_refused(
    cluster: Any, cli: Cli, tmp_path: Path, model_dir: Path, data: dict[str, Path]
) -> None:
    from ntkcli.steps.shared.stores import open_store
    from ntkcli.steps.training.run import alone

    stored = open_store(tmp_path / "s", create=True)
    with alone(stored.path / "tmp", "works on this store through Ray"):
        words = ["--data", data["pool"], "--name", "pool", "--kind", "embed", "--model", model_dir]
        ran = cli("featurize", tmp_path / "s", *words, "--ray", cluster.address)
    assert ran.code == 11
    assert "Another process works on this store through Ray" in ran.error_line


def test_an_address_without_a_cluster(cli: Cli, tmp_path: Path, model_dir: Path, data: dict[str, Path]) -> None:
    words = ["--data", data["pool"], "--name", "pool", "--kind", "embed", "--model", model_dir]
    ran = cli("featurize", tmp_path / "s", *words, "--ray", "127.0.0.1:9")
    assert ran.code == 2
    assert "there is no cluster to connect to" in ran.error_line
    for address in ("auto", "ray://head:10001", "head"):
        assert "is not an address" in cli("featurize", tmp_path / "s", *words, "--ray", address).error_line
    assert not (tmp_path / "s").exists()


def test_local_and_ctrl_c(tmp_path: Path, model_dir: Path, data: dict[str, Path], cli: Cli) -> None:
    """A cluster of the command's own; Ctrl-C in the middle leaves a store to go on from."""
    ntk = ["--kind", "ntk", "--dim", "64", "--model", model_dir, "--rank", "2", "--part-rows", "4"]
    words = [str(each) for each in ("--data", data["pool"], "--name", "pool", *ntk)]
    program = [sys.executable, "-m", "ntkcli", "featurize", str(tmp_path / "many"), *words, "--ray", "local"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    running = subprocess.Popen(program, env=env, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.05)
        found = list((tmp_path / "many/arrays.zarr/features/pool/ntk/part/c").glob("*"))
        if len(found) > 3:
            break
    running.send_signal(2)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 130, said
    assert "run the same command again to continue" in said
    done = store.Store.open(tmp_path / "many").get("features/pool/ntk").done()
    assert 0 < done.sum() < len(done)
    assert cli("featurize", tmp_path / "many", *words).code == 0
    assert cli("featurize", tmp_path / "one", *words).code == 0
    assert arrays_of(tmp_path / "one") == arrays_of(tmp_path / "many")
