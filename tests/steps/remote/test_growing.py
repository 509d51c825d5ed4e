"""A pool that grows between two pushes: only what is new is moved, and the result is what one machine has."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ntkcli.steps.remote.manifest import BEGUN, MANIFEST
from ntkcli.steps.remote.place import Place
from ntkcli.steps.shared import token_counts
from ntkcli.steps.shared.stores import open_store
from tests.commands.conftest import Cli, cli
from tests.conftest import prompt_rows, write_rows
from tests.steps.remote.kit import Breaks, tree

__all__ = ["cli"]
URL = "s3://bucket/team/med"
SHORT, LONG, LONGEST, PART_ROWS = 37, 47, 50, 8
ROWS = prompt_rows(LONGEST)
WHOLE = {str(i) for i in range(SHORT // PART_ROWS)}


@pytest.fixture
def grow(cli: Cli, model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int], int]:
    """Features of the first n rows in a store; returns how many rows were computed."""
    monkeypatch.setattr(token_counts, "PART_ROWS", 16)

    def run(path: Path, n: int, name: str = "pool", rows: list[dict[str, Any]] = ROWS) -> int:
        data = write_rows(tmp_path / f"{name}.jsonl", rows[:n])
        words = ["--data", data, "--name", name, "--kind", "ntk", "--model", model_dir, "--dim", "64", "--json"]
        ran = cli("featurize", path, *words, "--part-rows", PART_ROWS, "--batch-tokens", "256", "--device", "cpu")
        assert ran.code == 0, ran.err
        return int(json.loads(ran.out)["computed"])

    return run


def of_whole_parts(paths: list[str]) -> list[str]:
    """The chunks and records of parts that had all their rows before the pool grew."""
    return [
        path for path in paths if path.startswith("arrays.zarr/features/pool/") and "/c/" in path
        and path.split("/c/")[1].split("/")[0] in WHOLE
    ]  # fmt: skip


def test_only_new_rows_move(
    bucket: Callable[[str], Any], grow: Callable[..., int], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    med, pulled, fresh = tmp_path / "med", tmp_path / "pulled", tmp_path / "fresh"
    grow(med, 6, "domain", prompt_rows(6, seed=1))
    grow(med, SHORT)
    assert cli("push", med, URL).code == 0
    assert cli("pull", URL, pulled).code == 0
    assert grow(med, LONG) == LONG - SHORT
    dry = json.loads(cli("push", med, URL, "--dry-run", "--json").out)
    with monkeypatch.context() as counted:
        written = Breaks(counted).written
        ran = cli("push", med, URL, "--json")
    assert ran.code == 0, ran.err
    sent = [path for path in written if path not in (BEGUN, MANIFEST, "push.before.json")]
    assert json.loads(ran.out)["sent"] == len(sent) == dry["sent"]
    assert of_whole_parts(list(tree(med)))
    assert not of_whole_parts(sent)
    listed = bucket("list_objects_v2")(Bucket="bucket", Prefix="team/med/")["Contents"]
    assert {each["Key"].removeprefix("team/med/") for each in listed} == {*tree(med), MANIFEST}
    read: list[str] = []
    with monkeypatch.context() as seen:
        inner = Place.read
        seen.setattr(Place, "read", lambda place, path: (read.append(path), inner(place, path))[1])
        ran = cli("pull", URL, pulled)
    assert ran.code == 0, ran.err
    assert not of_whole_parts(read)
    assert [path for path in read if "features/pool/ntk/sketch/c/5" in path]
    assert cli("pull", URL, fresh).code == 0
    for each in (pulled, fresh):
        assert {path: data for path, data in tree(each).items() if not path.startswith("arrays.zarr/tokens/")} == {
            path: data for path, data in tree(med).items() if not path.startswith("arrays.zarr/tokens/")
        }
        assert cli("info", each, "--verify").code == 0
        common = ("--pool", "pool", "--domain", "domain", "--method", "mean", "--name", "s")
        assert cli("score", each, *common).code == 0
        assert json.loads(cli("select", each, "--score", "s", "-n", "5", "--name", "x", "--json").out)["rows"] == 5
        assert grow(each, LONG) == 0


def test_the_longer_side_wins(bucket: Callable[[str], Any], grow: Callable[..., int], cli: Cli, tmp_path: Path) -> None:
    """A shorter store does not push over a longer one, and a pull takes no rows away; what grew apart is refused."""
    med, other, third = tmp_path / "med", tmp_path / "other", tmp_path / "third"
    grow(med, SHORT)
    shutil.copytree(med, other)
    shutil.copytree(med, third)
    grow(med, LONG)
    assert cli("push", med, URL).code == 0
    before = bucket("list_objects_v2")(Bucket="bucket")["Contents"]
    ran = cli("push", other, URL)
    assert ran.code == 12
    assert "has more rows of datasets/pool, features/pool/ntk than" in ran.error_line
    assert f"`ntksel pull {URL} {other}`" in ran.error_line
    grow(third, LONG - 3)  # the same rows, but not all of them
    for words in (("push", third, URL), ("pull", URL, third)):
        ran = cli(*words)
        assert ran.code == 12
        assert "made with other settings" in ran.error_line
    after = bucket("list_objects_v2")(Bucket="bucket")["Contents"]
    assert [each["ETag"] for each in after] == [each["ETag"] for each in before]
    assert cli("pull", URL, other).code == 0
    assert grow(other, LONGEST) == LONGEST - LONG
    kept = tree(other)
    ran = cli("pull", URL, other, "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["longer"] == ["datasets/pool", "features/pool/ntk"]
    assert "features/pool/ntk: " in ran.err
    assert {path: data for path, data in tree(other).items() if path in kept} == kept
    assert cli("push", other, URL).code == 0
    assert cli("pull", URL, med).code == 0
    assert open_store(med).get("features/pool/ntk").rows_done() == LONGEST
