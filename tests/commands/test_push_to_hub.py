"""`select` and `finetune --push-to-hub`: what arrives at a Hub on this machine, and a Hub that says no."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ntkcli.steps.training.push_adapter import hub_card
from tests.commands.conftest import Cli
from tests.conftest import Writer, prompt_rows
from tests.hub_kit import Hub, Repo, running_hub

TOKEN = "hf_test"  # noqa: S105  # of no account


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    with running_hub() as made:
        monkeypatch.setattr(constants, "ENDPOINT", made.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield made


@pytest.fixture
def scored(cli: Cli, tmp_path: Path, write_jsonl: Writer) -> Path:
    pool = [{**row, "source": "ab"[i % 2]} for i, row in enumerate(prompt_rows(12))]
    data = write_jsonl("pool.jsonl", pool)
    assert cli("score", tmp_path / "s", "--pool", f"pool={data}", "--method", "random", "--name", "r").code == 0
    return tmp_path / "s"


def head(card: bytes) -> dict[str, object]:
    text = card.decode()
    assert text.startswith("---\n")
    found: dict[str, object] = yaml.safe_load(text[4 : text.index("\n---\n")])
    return found


SELECT = ["--score", "r", "-n", "5", "--name", "picked", "--push-to-hub", "me/picked"]


def test_a_selection_arrives_with_its_card(cli: Cli, scored: Path, hub: Hub, tmp_path: Path) -> None:
    from datasets import load_dataset

    ran = cli("select", scored, *SELECT, "--export", tmp_path / "own.jsonl", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["hub"] == f"{hub.url}/datasets/me/picked"
    repo = hub.repos["me/picked"]
    assert (repo.kind, repo.private) == ("dataset", True)
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert repo.files.keys() == {"README.md", "train.jsonl"}
    assert repo.files["train.jsonl"] == (tmp_path / "own.jsonl").read_bytes()
    card = repo.files["README.md"]
    assert head(card)["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "train.jsonl"}]}
    ]
    assert b"5 rows out of the 12 of `pool`" in card
    assert str(tmp_path).encode() not in card  # no path of this machine
    assert not list(scored.glob("tmp/*"))
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, data in repo.files.items():
        (copy / name).write_bytes(data)
    rows = load_dataset(str(copy), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["ntksel_rank"] == [1, 2, 3, 4, 5]
    again = cli("select", scored, *SELECT, "--format", "messages")
    assert again.code == 0, again.err
    assert "is finished already" in again.err
    assert b'"messages"' in repo.files["train.jsonl"]
    assert len(repo.messages) == 2


def test_a_hub_that_says_no_loses_nothing(cli: Cli, scored: Path, hub: Hub) -> None:
    hub.fail = "commit"
    ran = cli("select", scored, *SELECT)
    assert ran.code == 1
    assert "the Hub did not take it: " in ran.error_line
    assert "Run the same command again, which only pushes: `ntksel select" in ran.error_line
    assert "--name picked ... --push-to-hub me/picked`" in ran.error_line
    assert not list(scored.glob("tmp/*"))
    hub.fail = ""
    ran = cli("select", scored, *SELECT)
    assert ran.code == 0, ran.err
    assert "is finished already" in ran.err
    assert "train.jsonl" in hub.repos["me/picked"].files


def test_nothing_goes_into_a_public_repository_unasked(cli: Cli, scored: Path, hub: Hub) -> None:
    hub.repos["me/picked"] = Repo("dataset", private=False)
    ran = cli("select", scored, *SELECT)
    assert ran.code == 1
    assert "me/picked is public, and --public is not given" in ran.error_line
    assert not hub.repos["me/picked"].files
    assert cli("select", scored, *SELECT, "--public").code == 0
    assert hub.repos["me/picked"].files
    assert cli("select", scored, *SELECT[:-1], "me/new", "--public").code == 0
    assert not hub.repos["me/new"].private


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--push-to-hub", "picked"], "expected ORG/NAME"),
        (["--push-to-hub", "me/a b"], "--push-to-hub me/a b: "),
        (["--push-to-hub", "me/x/y"], "--push-to-hub me/x/y: "),
        (["--public"], "--public is given without --push-to-hub"),
    ],
)
def test_refused_before_anything_is_done(cli: Cli, scored: Path, hub: Hub, more: list[str], message: str) -> None:
    ran = cli("select", scored, *SELECT[:-2], *more)
    assert ran.code == 2
    assert message in ran.error_line
    assert not list(scored.glob("arrays.zarr/selections/*"))
    assert not hub.repos


def test_not_logged_in_or_offline(
    cli: Cli, scored: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN")
    ran = cli("select", scored, *SELECT)
    assert ran.code == 2
    assert "not logged in to the Hub. Run `hf auth login`, or set HF_TOKEN." in ran.error_line
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in cli("select", scored, *SELECT).error_line
    assert not list(scored.glob("arrays.zarr/selections/*"))


def test_adapters_arrive_a_repository_for_each_seed(
    cli: Cli, tmp_path: Path, model_dir: Path, write_jsonl: Writer, hub: Hub
) -> None:
    data = write_jsonl("d.jsonl", prompt_rows(8))
    words = [
        "finetune", tmp_path / "s", "--model", model_dir, "--train", data, "--epochs", "1", "--rank", "2", "--name",
        "r", "--seeds", "0,1", "--push-to-hub", "me/adapter",
    ]  # fmt: skip
    hub.fail = "create"
    ran = cli(*words)
    assert ran.code == 1
    assert "`ntksel finetune" in ran.error_line
    assert "--name r.s0 ... --push-to-hub me/adapter.s0`" in ran.error_line
    hub.fail = ""
    ran = cli(*words, "--json")
    assert ran.code == 0, ran.err
    assert "runs/r.s0 is finished already" in ran.err
    assert [one["hub"] for one in json.loads(ran.out)["runs"]] == [f"{hub.url}/me/adapter.s{i}" for i in (0, 1)]
    for seed in (0, 1):
        repo, folder = hub.repos[f"me/adapter.s{seed}"], tmp_path / f"s/adapters/r.s{seed}"
        assert (repo.kind, repo.private) == ("model", True)
        names = {"adapter_config.json", "adapter_model.safetensors", "ntksel.json", "README.md"}
        assert repo.files.keys() == names
        for name in names - {"README.md"}:
            assert repo.files[name] == (folder / name).read_bytes(), name
        assert head(repo.files["README.md"]) == {
            "library_name": "peft",
            "pipeline_tag": "text-generation",
            "tags": ["lora", "ntksel"],
        }


def test_a_hub_model_stays_in_the_card() -> None:
    card = '---\nbase_model: "org/m"\nlibrary_name: peft\n---\n\nbase_model: x\n'
    assert hub_card(card, base_model="org/m") == card
    assert hub_card(card, base_model="/models/m") == "---\nlibrary_name: peft\n---\n\nbase_model: x\n"


def test_the_endpoint_and_the_token_come_from_the_environment(scored: Path, tmp_path: Path) -> None:
    """As the library has them, in a process of its own."""
    with running_hub() as made:
        env = {**os.environ, "HF_ENDPOINT": made.url, "HF_TOKEN": "hf_other", "HF_HOME": str(tmp_path / "hf")}
        env.pop("HF_HUB_OFFLINE", None)
        ran = subprocess.run(
            [sys.executable, "-m", "ntkcli", "select", str(scored), *SELECT],
            env=env, cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert made.tokens == {"Bearer hf_other"}
        assert "train.jsonl" in made.repos["me/picked"].files
