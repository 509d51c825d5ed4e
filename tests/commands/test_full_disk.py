"""Commands on a real file system of 4 MiB: refused at the start, or stopped with one line and gone on with later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import store
from tests.commands.conftest import Cli
from tests.conftest import Writer, choice_rows, prompt_rows
from tests.store.kit import tree

ROWS = 64


@pytest.fixture
def command(model_dir: Path, write_jsonl: Writer) -> list[str | Path]:
    """1 MiB of features in 4 parts."""
    data = write_jsonl("d.jsonl", prompt_rows(ROWS))
    return ["--data", data, "--name", "d", "--kind", "ntk", "--model", model_dir, "--part-rows", "16"]


def fill(disk: Path, leave: int) -> Path:
    filler = disk / "filler"
    filler.write_bytes(bytes(store.free_bytes(disk) - leave))
    return filler


def test_too_little_room_is_refused_before_the_first_batch(
    cli: Cli, small_disk: Path, command: list[str | Path]
) -> None:
    filler = fill(small_disk, leave=800_000)
    ran = cli("featurize", small_disk / "med", *command)
    assert ran.code == 1
    assert "features/d/ntk needs 1.1 MiB more and the disk of" in ran.error_line
    assert "`ntksel rm`" in ran.error_line
    assert not store.Store.open(small_disk / "med").get("features/d/ntk").done().any()
    filler.unlink()
    assert cli("featurize", small_disk / "med", *command).code == 0
    again = cli("featurize", small_disk / "med", *command)  # nothing is pending: no room is needed
    assert again.code == 0


def test_a_disk_that_fills_up_on_the_way(
    cli: Cli, small_disk: Path, tmp_path: Path, command: list[str | Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program takes the room after the start."""
    assert cli("featurize", tmp_path / "unbroken", *command).code == 0
    filler = fill(small_disk, leave=800_000)
    with monkeypatch.context() as patch:
        patch.setattr(store, "free_bytes", lambda path: 1 << 40)
        ran = cli("featurize", small_disk / "med", *command)
    assert ran.code == 1
    assert "No space left on device" in ran.error_line
    assert "run the same command again" in ran.error_line
    done = store.Store.open(small_disk / "med").get("features/d/ntk").rows_done()
    assert 0 < done < ROWS
    assert cli("info", small_disk / "med", "--verify").code == 0
    filler.unlink()
    ran = cli("featurize", small_disk / "med", *command, "--json")
    assert json.loads(ran.out)["computed"] == ROWS - done
    assert {k: v for k, v in tree(small_disk / "med").items() if "features" in k} == {
        k: v for k, v in tree(tmp_path / "unbroken").items() if "features" in k
    }


def rows(disk: Path, name: str) -> int:
    return store.Store.open(disk / "med").get(name).rows_done()


def test_too_little_room_for_a_run(cli: Cli, small_disk: Path, model_dir: Path, write_jsonl: Writer) -> None:
    """Checkpoints and the adapter are counted."""
    data = write_jsonl("d.jsonl", prompt_rows(8))
    train = ["--model", model_dir, "--train", data, "--name", "r", "--epochs", "1", "--rank", "64"]
    filler = fill(small_disk, leave=1_200_000)
    ran = cli("finetune", small_disk / "med", *train)
    assert ran.code == 1
    assert "runs/r needs" in ran.error_line
    assert "give a smaller --rank" in ran.error_line
    assert rows(small_disk, "runs/r") == 0
    filler.unlink()
    assert cli("finetune", small_disk / "med", *train).code == 0


@pytest.mark.parametrize("leave", [150_000, 250_000, 400_000])
def test_a_disk_that_fills_up_while_training(
    cli: Cli, small_disk: Path, model_dir: Path, write_jsonl: Writer, monkeypatch: pytest.MonkeyPatch, leave: int
) -> None:
    """In a checkpoint, by whoever writes it: torch, safetensors or plain files. One line, and the run goes on later."""
    data = write_jsonl("d.jsonl", prompt_rows(40))
    train = ["--model", model_dir, "--train", data, "--name", "r", "--epochs", "2", "--rank", "4"]
    filler = fill(small_disk, leave=leave)
    with monkeypatch.context() as patch:
        patch.setattr("ntkcli.engine.training.train._refuse_without_room", lambda *_, **__: None)
        ran = cli("finetune", small_disk / "med", *train, "--checkpoint-steps", "1")
    assert ran.code == 1
    assert "No space left on device" in ran.error_line or "The disk could not take a checkpoint" in ran.error_line
    assert "run the same command again" in ran.error_line
    filler.unlink()
    assert cli("finetune", small_disk / "med", *train).code == 0
    assert cli("info", small_disk / "med", "--verify").code == 0


def test_too_little_room_for_scores_and_items(
    cli: Cli,
    tmp_path: Path,
    command: list[str | Path],
    model_dir: Path,
    write_jsonl: Writer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is computed. (The disk only says that it is full: what is to be written is small here.)"""
    assert cli("featurize", tmp_path / "med", *command, "--dim", "64").code == 0
    task = write_jsonl("t.jsonl", choice_rows(5))
    for verb, options in {
        "score": ["--pool", "d", "--domain", "d", "--method", "cosine", "--name", "s"],
        "eval": ["--model", model_dir, "--run", "base", "--task", task, "--name", "e"],
    }.items():
        with monkeypatch.context() as patch:
            patch.setattr(store, "free_bytes", lambda path: 4095)
            ran = cli(verb, tmp_path / "med", *options)
        assert ran.code == 1
        assert "more and the disk of" in ran.error_line
        assert "Make room (`ntksel rm` removes what is in a store)." in ran.error_line
        artefact = store.Store.open(tmp_path / "med").get({"score": "scores/s", "eval": "evals/e/base"}[verb])
        assert not artefact.done().any()
        assert cli(verb, tmp_path / "med", *options).code == 0
