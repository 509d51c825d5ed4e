"""`featurize` on a real file system of 4 MiB: refused at the start, or stopped with one line and gone on with later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import store
from tests.commands.conftest import Cli
from tests.conftest import Writer, prompt_rows
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
